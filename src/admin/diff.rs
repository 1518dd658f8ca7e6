//! What a reload would change: the files line by line, and the servers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::one_line;

/// What a reload would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The files that would be others, by name.
    pub files: Vec<FileDiff>,
    /// The upstreams whose servers would be others, by name.
    pub servers: Vec<ServersDiff>,
    /// Whether nginx would be told to reload.
    pub reload: bool,
}

/// A file that would be another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiff {
    /// Its name in the directory of the configuration.
    pub name: String,
    /// As of [`unified`].
    pub diff: String,
}

/// An upstream whose servers would be others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServersDiff {
    /// nginx's name of it.
    pub upstream: String,
    /// Servers that would be new.
    pub added: Vec<String>,
    /// Servers that would be none any more.
    pub removed: Vec<String>,
    /// Servers with other parameters, with both (`10.0.0.1:80 weight=1 -> weight=3`).
    pub changed: Vec<String>,
    /// Why nginx would reload for it; nothing, if it would follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
}

/// The servers, then the files, then what would come of it.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ServersDiff { upstream, added, removed, changed, reload } in &self.servers {
            match reload {
                Some(why) => writeln!(f, "{upstream}, by a reload: {}", one_line(why))?,
                None => writeln!(f, "{upstream}, without a reload")?,
            }
            for (sign, servers) in [('+', added), ('-', removed), ('~', changed)] {
                servers.iter().try_for_each(|server| writeln!(f, "  {sign} {}", one_line(server)))?;
            }
        }
        for FileDiff { name, diff } in &self.files {
            writeln!(f, "--- {name}, live\n+++ {name}, after a reload")?;
            diff.lines().try_for_each(|line| writeln!(f, "{}", one_line(line)))?;
        }
        f.write_str(match self.reload {
            true => "nginx would reload\n",
            false if self.servers.is_empty() && self.files.is_empty() => "nothing would change\n",
            false => "nginx would follow without a reload\n",
        })
    }
}

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// Most lines that may differ before all between the first and the last of them counts as replaced:
/// finding the shortest way takes the square of them in memory.
const MOST_DIFFERING: usize = 500;

/// The lines that differ, with some around them, as `diff -u` shows them; nothing if none does.
pub fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let edits = edits(&old, &new);
    let mut out = String::new();
    let mut at = 0;
    while let Some(first) = (at..edits.len()).find(|&index| edits[index].0 != ' ') {
        // A hunk ends where more lines are the same than the context of two.
        let mut last = first;
        let next = |last: usize| (last + 1..edits.len()).take(2 * CONTEXT + 1).find(|&index| edits[index].0 != ' ');
        while let Some(index) = next(last) {
            last = index;
        }
        let (start, end) = (first.saturating_sub(CONTEXT).max(at), (last + 1 + CONTEXT).min(edits.len()));
        let count = |edits: &[(char, &str)], other: char| edits.iter().filter(|(sign, _)| *sign != other).count();
        let range = |other: char| {
            let (before, inside) = (count(&edits[..start], other), count(&edits[start..end], other));
            // An empty range is named by the line before it.
            (before + usize::from(inside > 0), inside)
        };
        let ((old_at, old_count), (new_at, new_count)) = (range('+'), range('-'));
        out.push_str(&format!("@@ -{old_at},{old_count} +{new_at},{new_count} @@\n"));
        for (sign, line) in &edits[start..end] {
            out.push(*sign);
            out.push_str(line);
            out.push('\n');
        }
        at = end;
    }
    out
}

/// Each line with what becomes of it: ` ` stays, `-` goes, `+` comes.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let head = same(&mut old.iter().zip(new));
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = same(&mut old_rest.iter().rev().zip(new_rest.iter().rev()));
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let stays = |lines: &[&'a str]| lines.iter().map(|&line| (' ', line)).collect::<Vec<_>>();
    let mut out = stays(&old[..head]);
    out.extend(shortest(old_middle, new_middle).unwrap_or_else(|| {
        let gone = old_middle.iter().map(|&line| ('-', line));
        gone.chain(new_middle.iter().map(|&line| ('+', line))).collect()
    }));
    out.extend(stays(&old_rest[old_rest.len() - tail..]));
    out
}

/// The fewest lines that go and come, if they are not too many: Myers, "An O(ND) Difference
/// Algorithm", with the furthest place on each diagonal kept for each number of differing lines.
fn shortest<'a>(old: &[&'a str], new: &[&'a str]) -> Option<Vec<(char, &'a str)>> {
    let most = (old.len() + new.len()).min(MOST_DIFFERING);
    // The place on diagonal k is at k + most + 1; x - k is the line of `new`.
    let mut furthest = vec![0_usize; 2 * most + 3];
    let mut kept: Vec<Vec<usize>> = Vec::new();
    let step = |furthest: &[usize], diagonal: usize, low: usize, high: usize| {
        let down = diagonal == low || (diagonal != high && furthest[diagonal - 1] < furthest[diagonal + 1]);
        if down { (diagonal + 1, furthest[diagonal + 1]) } else { (diagonal - 1, furthest[diagonal - 1] + 1) }
    };
    let line_of_new = |x: usize, diagonal: usize| (x + most + 1).checked_sub(diagonal);
    let mut found = None;
    'all: for count in 0..=most {
        let (low, high) = (most + 1 - count, most + 1 + count);
        kept.push(furthest[low - 1..=high + 1].to_vec());
        for diagonal in (low..=high).step_by(2) {
            let mut x = if count == 0 { 0 } else { step(&furthest, diagonal, low, high).1 };
            while let Some(y) = line_of_new(x, diagonal)
                && x < old.len()
                && y < new.len()
                && old[x] == new[y]
            {
                x += 1;
            }
            furthest[diagonal] = x;
            if x >= old.len() && line_of_new(x, diagonal).is_some_and(|y| y >= new.len()) {
                found = Some((count, diagonal, x));
                break 'all;
            }
        }
    }
    let (mut count, mut diagonal, mut x) = found?;
    let mut out = Vec::new();
    while count > 0 {
        let (low, high) = (most + 1 - count, most + 1 + count);
        // Kept from `low - 1` on.
        let mut before = vec![0; 2 * most + 3];
        before[low - 1..=high + 1].copy_from_slice(&kept[count]);
        let (from, start) = step(&before, diagonal, low, high);
        while x > start {
            x -= 1;
            out.push((' ', old[x]));
        }
        if from > diagonal {
            out.push(('+', new[line_of_new(x, from)?]));
        } else {
            x -= 1;
            out.push(('-', old[x]));
        }
        (count, diagonal) = (count - 1, from);
    }
    out.extend(old[..x].iter().rev().map(|&line| (' ', line)));
    out.reverse();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[&str]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// What the edits make of the old text, and of which they say that it was.
    fn sides(edits: &[(char, &str)]) -> (Vec<String>, Vec<String>) {
        let side =
            |other| edits.iter().filter(|(sign, _)| *sign != other).map(|(_, line)| (*line).to_owned()).collect();
        (side('+'), side('-'))
    }

    #[test]
    fn what_is_the_same_is_nothing() {
        for same in ["", "a", "a\nb\n"] {
            assert_eq!(unified(same, same), "");
        }
    }

    #[test]
    fn changes_stand_among_the_lines_around_them() {
        let before = text(&["a", "b", "c", "d", "e", "f", "g"]);
        let after = text(&["a", "b", "c", "x", "e", "f", "g"]);
        assert_eq!(unified(&before, &after), "@@ -1,7 +1,7 @@\n a\n b\n c\n-d\n+x\n e\n f\n g\n");
        assert_eq!(unified("", "a\n"), "@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
    }

    #[test]
    fn changes_far_from_one_another_stand_apart() {
        let numbers =
            |skip: &[u32]| (1..=40).filter(|n| !skip.contains(n)).map(|n| format!("{n}\n")).collect::<String>();
        let diff = unified(&numbers(&[]), &numbers(&[5, 30]));
        let heads: Vec<&str> = diff.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -2,7 +2,6 @@", "@@ -27,7 +26,6 @@"]);
        // Six lines between two changes are the context of both.
        let near = unified(&numbers(&[]), &numbers(&[5, 12]));
        assert_eq!(near.lines().filter(|line| line.starts_with("@@")).count(), 1, "{near}");
    }

    #[test]
    fn edits_are_the_fewest_and_lead_from_one_text_to_the_other() {
        // All texts of up to six lines of two kinds, and the length of their longest common part.
        let all: Vec<Vec<&str>> = (0..=6)
            .flat_map(|len| {
                (0..1_u32 << len).map(move |bits| (0..len).map(|i| ["a", "b"][(bits >> i & 1) as usize]).collect())
            })
            .collect();
        for old in &all {
            for new in &all {
                let edits = edits(old, new);
                let (left, right) = sides(&edits);
                assert_eq!(
                    (&left, &right),
                    (&old.iter().map(|&s| s.to_owned()).collect(), &new.iter().map(|&s| s.to_owned()).collect())
                );
                let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
                for (i, a) in old.iter().enumerate() {
                    for (j, b) in new.iter().enumerate() {
                        common[i + 1][j + 1] =
                            if a == b { common[i][j] + 1 } else { common[i][j + 1].max(common[i + 1][j]) };
                    }
                }
                let stays = edits.iter().filter(|(sign, _)| *sign == ' ').count();
                assert_eq!(stays, common[old.len()][new.len()], "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn what_differs_too_much_is_replaced_as_a_whole() {
        let numbers = |from: u32| (from..from + 100_000).map(|n| format!("{n}\n")).collect::<String>();
        let diff = unified(&numbers(0), &numbers(1_000_000));
        assert_eq!(diff.lines().count(), 200_001);
        assert!(diff.starts_with("@@ -1,100000 +1,100000 @@\n-0\n-1\n"));
        // While a few changes in many lines are found.
        let few = unified(&numbers(0), &numbers(0).replace("77\n", "x\n"));
        assert!(few.lines().filter(|line| line.starts_with('+')).count() > 500, "more than the bound");
        let fewer = unified(&numbers(0), &numbers(0).replace("777\n", "x\n"));
        assert_eq!(fewer.lines().filter(|line| line.starts_with('+')).count(), 100);
    }

    #[test]
    fn a_difference_is_lines_for_people() {
        let files = vec![FileDiff { name: "default.conf".to_owned(), diff: unified("a\n", "b\u{1b}\n") }];
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let servers = vec![ServersDiff {
            reload: Some("a reason".to_owned()),
            upstream: "x_backend".to_owned(),
            added: words(&["10.0.0.1:80"]),
            removed: words(&["10.0.0.2:80", "10.0.0.3:80"]),
            changed: words(&["10.0.0.4:80 weight=1 -> weight=3"]),
        }];
        let want = "\
x_backend, by a reload: a reason
  + 10.0.0.1:80
  - 10.0.0.2:80
  - 10.0.0.3:80
  ~ 10.0.0.4:80 weight=1 -> weight=3
--- default.conf, live
+++ default.conf, after a reload
@@ -1,1 +1,1 @@
-a
+b\\u{1b}
nginx would reload
";
        assert_eq!(Diff { files, servers, reload: true }.to_string(), want);
        let servers =
            vec![ServersDiff { upstream: "x_backend".to_owned(), added: words(&["a:1"]), ..ServersDiff::default() }];
        let live = "x_backend, without a reload\n  + a:1\nnginx would follow without a reload\n";
        assert_eq!(Diff { servers, ..Diff::default() }.to_string(), live);
        assert_eq!(Diff::default().to_string(), "nothing would change\n");
    }
}
