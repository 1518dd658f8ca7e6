//! nginx quoting of every value that a template prints.
//!
//! A value cannot become nginx syntax. What a template prints with `{{ value }}` may hold only
//! characters that mean nothing to nginx, neither bare nor inside a quoted string; anything else
//! fails the rendering with a message. `{{ value | quote }}` makes a whole quoted argument of a
//! text with blanks or quotes. nginx has no way to write a `$` or a line break that its
//! variables and its lexer would leave alone, so those are refused by both.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Characters that mean nothing to nginx's lexer in any place (`ngx_conf_read_token` in
/// src/core/ngx_conf_file.c), and none of which starts a variable.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._:@%+=~,!?&*()[]|^<>-".contains(c)
}

/// Writes what `{{ value }}` stands for.
///
/// # Errors
/// Undefined and none, lists and maps, and texts with a character that nginx would act on.
pub fn write(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let refuse = |detail: String| Err(Error::new(ErrorKind::InvalidOperation, detail));
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Number | ValueKind::Bool => Ok(out.write_str(&value.to_string())?),
        ValueKind::String if value.is_safe() => Ok(out.write_str(value.as_str().unwrap_or_default())?),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            match text.chars().find(|c| !is_plain(*c)) {
                None => Ok(out.write_str(text)?),
                Some(c) => refuse(format!(
                    "a value with the character {c:?} is not printed bare; use the quote filter, outside of quotes"
                )),
            }
        }
        ValueKind::None => refuse("none is not printed; use the default filter".to_owned()),
        kind => refuse(format!("a {kind} is not printed; print its fields or loop over it")),
    }
}

/// The `quote` filter: a text as one argument of nginx, in double quotes.
///
/// # Errors
/// Texts with a line break or another control character, with `$`, or that start with a character
/// which ends an argument: in a template that puts its own quotes around the filter, those could
/// leave the argument; all others make nginx refuse such a template.
pub fn quote(value: &str) -> Result<Value, Error> {
    let refuse = |detail: String| Err(Error::new(ErrorKind::InvalidOperation, detail));
    if let Some(c) = value.chars().find(|c| c.is_control() || *c == '$') {
        return refuse(format!("nginx has no way to quote a value with the character {c:?}"));
    }
    if value.starts_with([' ', ';', '{', '}', ')', '#']) {
        return refuse("a value that starts with a blank or one of ;{})# is not quoted".to_owned());
    }
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(Value::from_safe_string(format!("\"{escaped}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_would_end_the_argument() {
        assert_eq!(quote("a b;c{d}\"e\\f'#").unwrap().as_str(), Some("\"a b;c{d}\\\"e\\\\f'#\""));
        assert_eq!(quote("").unwrap().as_str(), Some("\"\""));
        for bad in ["a\nb", "$host", "a$b", " a", ";a", "{a", "\u{0}", "\u{7f}"] {
            assert!(quote(bad).is_err(), "{bad:?}");
        }
    }
}
