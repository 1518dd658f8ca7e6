//! The made-up students: names and subjects of our own, put together at random. Pure, given a random source.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use fastrand::Rng;
use serde::Serialize;

/// How many students an answer holds: never none, and few enough to read in two seconds.
pub(crate) const COUNT: RangeInclusive<usize> = 1..=8;
const IDS: RangeInclusive<u32> = 1000..=9999;
const BIRTH_YEARS: RangeInclusive<u16> = 1998..=2008;

/// One student, as it stands in the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Student {
    id: u32,
    first_name: &'static str,
    last_name: &'static str,
    gender: Gender,
    birth_year: u16,
    subject: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Gender {
    Female,
    Male,
    Other,
}

use Gender::{Female, Male, Other};

const FIRST_NAMES: &[(&str, Gender)] = &[
    ("Ada", Female),
    ("Amina", Female),
    ("Bruno", Male),
    ("Chiara", Female),
    ("Daniel", Male),
    ("Elif", Female),
    ("Emeka", Male),
    ("Freya", Female),
    ("Hugo", Male),
    ("Ines", Female),
    ("Jonas", Male),
    ("Keiko", Female),
    ("Lars", Male),
    ("Lucía", Female),
    ("Mateo", Male),
    ("Mei", Female),
    ("Noor", Other),
    ("Olga", Female),
    ("Pavel", Male),
    ("Rafael", Male),
    ("Robin", Other),
    ("Sanjay", Male),
    ("Sasha", Other),
    ("Tomás", Male),
    ("Vera", Female),
    ("Yusuf", Male),
    ("Zoë", Female),
];

const LAST_NAMES: &[&str] = &[
    "Abara",
    "Almeida",
    "Bergström",
    "Castellan",
    "Dvorak",
    "Eklund",
    "Farrow",
    "Grünwald",
    "Haddad",
    "Ibarra",
    "Jansen",
    "Kowal",
    "Lindqvist",
    "Marchetti",
    "Nakamura",
    "O’Dwyer",
    "Petrov",
    "Quiroga",
    "Rosenthal",
    "Sato",
    "Tanaka",
    "Ueda",
    "Varga",
    "Whitlock",
    "Yilmaz",
    "Zeman",
];

const SUBJECTS: &[&str] = &[
    "Architecture",
    "Art history",
    "Astronomy",
    "Biology",
    "Chemistry",
    "Computer science",
    "Economics",
    "Geography",
    "Law",
    "Linguistics",
    "Mathematics",
    "Medicine",
    "Music",
    "Philosophy",
    "Physics",
];

/// A random number of random students, ordered by id; no id twice.
pub(crate) fn random(rng: &mut Rng) -> Vec<Student> {
    let count = rng.usize(COUNT);
    let mut ids = BTreeSet::new();
    while ids.len() < count {
        ids.insert(rng.u32(IDS));
    }
    ids.into_iter().map(|id| student(id, rng)).collect()
}

fn student(id: u32, rng: &mut Rng) -> Student {
    let (first_name, gender) = FIRST_NAMES[rng.usize(..FIRST_NAMES.len())];
    Student {
        id,
        first_name,
        last_name: LAST_NAMES[rng.usize(..LAST_NAMES.len())],
        gender,
        birth_year: rng.u16(BIRTH_YEARS),
        subject: SUBJECTS[rng.usize(..SUBJECTS.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::with_seed(7);
        let counts: BTreeSet<usize> = (0..1000).map(|_| random(&mut rng).len()).collect();
        assert_eq!(counts, COUNT.collect());
    }

    #[test]
    fn ids_are_ordered_and_unique() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..1000 {
            let students = random(&mut rng);
            assert!(students.windows(2).all(|pair| pair[0].id < pair[1].id), "{students:?}");
        }
    }

    #[test]
    fn same_seed_same_students_other_seed_others() {
        let of = |seed| random(&mut Rng::with_seed(seed));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn json_names_the_fields() {
        let json = serde_json::to_value(student(1234, &mut Rng::with_seed(1))).expect("plain data");
        let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(names, ["birth_year", "first_name", "gender", "id", "last_name", "subject"]);
        assert_eq!(json["id"], 1234);
    }
}
