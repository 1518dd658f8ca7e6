//! Programs beside nginx: `NGINIT_SIDECAR_NAME`.

use std::collections::BTreeMap;

use super::variables::SIDECAR;
use super::{Findings, Vars};
use crate::upstream::Name;

/// Each one's words; nothing at all where a text is refused.
pub(super) fn parse(vars: &Vars, findings: &mut Findings) -> Option<BTreeMap<Name, Vec<String>>> {
    let before = findings.errors.len();
    let mut sidecars = BTreeMap::new();
    for (variable, given) in vars {
        let Some(name) = variable.strip_prefix(SIDECAR).and_then(Name::new) else { continue };
        let text = given.value.trim();
        if text.is_empty() {
            continue;
        }
        let words = match shell_words::split(text) {
            Ok(words) if words.first().is_none_or(String::is_empty) => Err("names no program"),
            Ok(words) if words.iter().any(|word| word.contains('\0')) => Err("holds a NUL"),
            Ok(words) => Ok(words),
            Err(_) => Err("a quote is not closed"),
        };
        let words =
            words.map_err(|reason| (reason.to_owned(), "write it as for a shell: PROGRAM ARGUMENT…".to_owned()));
        if let Some(words) = findings.check(vars, variable, text, words) {
            sidecars.insert(name, words);
        }
    }
    (findings.errors.len() == before).then_some(sidecars)
}

#[cfg(test)]
mod tests {
    use crate::settings::{self, Given};

    #[test]
    fn words_are_split_as_a_shell_does() {
        let name = "NGINIT_SIDECAR_SERF";
        let parse = |text: &str| {
            let given = Given { variable: name.to_owned(), value: text.to_owned() };
            settings::parse(&[(name.to_owned(), given)].into())
        };
        let words = |text: &str| parse(text).unwrap().0.sidecars.into_values().next();
        assert_eq!(
            words("serf agent -tag 'role=lb x'"),
            Some(["serf", "agent", "-tag", "role=lb x"].map(str::to_owned).to_vec())
        );
        assert_eq!(words("  "), None);
        for bad in ["serf 'agent", "''", "'' x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
