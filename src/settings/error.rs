//! What is wrong with a setting: variable, entry, token, reason, remedy.
//!
//! Faults are values, collected over all variables, so that an operator who made three mistakes
//! reads of three and not of one after another.

use std::fmt;

/// The longest token that a message repeats, in characters; the rest is cut.
const LONGEST_TOKEN: usize = 80;

/// The longest reason, in characters; none without a part of the token in it is that long.
const LONGEST_REASON: usize = 160;

/// Why a text is refused, and what to do.
pub type Fault = (String, String);

/// A [`Fault`].
pub fn fault(reason: impl Into<String>, remedy: impl Into<String>) -> Fault {
    (reason.into(), remedy.into())
}

/// One fault of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The variable's name as set.
    pub variable: String,
    /// What kind of entry in it and which, counted from 1; nothing for the whole value.
    pub entry: Option<(&'static str, usize)>,
    /// The offending text as typed; nothing where the value must not be shown or has none.
    pub token: Option<String>,
    /// Why it is refused.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl SettingsError {
    /// A fault of the whole value of `variable`.
    pub fn new(
        variable: impl Into<String>,
        token: Option<&str>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            variable: variable.into(),
            entry: None,
            token: token.map(str::to_owned),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\":", self.variable)?;
        if let Some((kind, number)) = self.entry {
            write!(f, " {kind} {number}")?;
        }
        if let Some(token) = &self.token {
            write!(f, " \"{}\":", shown(token))?;
        } else if self.entry.is_some() {
            write!(f, ":")?;
        }
        write!(f, " {}; {}", one_line(&self.reason), self.remedy)
    }
}

impl std::error::Error for SettingsError {}

/// All faults of all variables, in the order of the variables' names. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<SettingsError>);

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsErrors {}

/// A token made fit for one line of a log: control characters escaped, long ones cut.
fn shown(token: &str) -> String {
    let mut chars = token.chars();
    let mut text: String = chars
        .by_ref()
        .take(LONGEST_TOKEN)
        .flat_map(|c| {
            let quoted = c == '"' || c == '\\' || c.is_control();
            let escaped = quoted.then(|| c.escape_default());
            let plain = (!quoted).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

/// A reason, which may repeat a part of the token, made fit in the same way.
fn one_line(reason: &str) -> String {
    let mut chars = reason.chars();
    let mut text = String::new();
    for c in chars.by_ref().take(LONGEST_REASON) {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_variable_entry_token_reason_and_remedy() {
        let error = SettingsError {
            variable: "STATIC_BACKEND".into(),
            entry: Some(("server", 2)),
            token: Some("web:99999".into()),
            reason: "port must be 1-65535".into(),
            remedy: "correct it or remove the entry".into(),
        };
        assert_eq!(
            error.to_string(),
            "\"STATIC_BACKEND\": server 2 \"web:99999\": port must be 1-65535; correct it or remove the entry"
        );
    }

    #[test]
    fn a_token_stays_on_one_short_line() {
        assert_eq!(shown("a\nb\"\u{1b}[31m"), "a\\nb\\\"\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), LONGEST_TOKEN + 1);
    }
}
