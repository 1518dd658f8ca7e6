//! The grammar of `NGINIT_ENV_FILE`: a `NAME=VALUE` a line, as dotenv files have it.
//!
//! Nothing is ever put in for a `$`: to nginx's variables and to rules it means something else. A bad
//! line is named by its number and never shown, since such files hold secrets.

/// A line that does not belong into a file of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1; of a value over several lines, the first one's.
    pub number: usize,
    /// Why it is refused, and what to do about it.
    pub fault: (&'static str, &'static str),
}

/// What separates words in a line.
const BLANKS: [char; 2] = [' ', '\t'];

const NO_VALUE: (&str, &str) = ("has no \"=\"", "write NAME=VALUE, or # before a comment");
const NO_NAME: (&str, &str) = ("has no name before its \"=\"", "write NAME=VALUE, a NAME of letters, digits and _");
const NUL: (&str, &str) = ("holds a NUL", "remove it");
const UNCLOSED: (&str, &str) = ("has a quote that is not closed", "close it, or put other quotes around it");
const MORE: (&str, &str) = ("goes on behind its closing quote", "put all of the value between the quotes");

/// The variables in `text`, in its order; of those with the same name, the last one counts.
///
/// A line is blank, a comment from `#` on, or `[export] NAME=VALUE`. A plain value ends with its line,
/// or before a blank and a `#`. Between `'` all is meant as it stands, between `"` there are `\n`, `\t`,
/// `\"`, `\\` and `\$`, and any other `\` stands for itself; both may go over several lines.
///
/// # Errors
/// All bad lines, up to a quote that leaves open where the next line is.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<BadLine>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    let (mut rest, mut number) = (text.as_str(), 1);
    while !rest.is_empty() {
        let after = match assignment(rest) {
            Ok((variable, after)) => {
                found.extend(variable);
                after
            }
            Err(fault) => {
                bad.push(BadLine { number, fault });
                if fault == UNCLOSED || fault == MORE {
                    break;
                }
                rest.split_once('\n').map_or("", |(_, after)| after)
            }
        };
        number += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    if bad.is_empty() { Ok(found) } else { Err(bad) }
}

/// A variable's name and value.
type Variable = (String, String);

/// The variable that `text` starts with, if its first line has one, and the lines after it.
fn assignment(text: &str) -> Result<(Option<Variable>, &str), (&'static str, &'static str)> {
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    let start = line.trim_start_matches(BLANKS);
    if start.trim_end().is_empty() || start.starts_with('#') {
        return Ok((None, after));
    }
    let (name, _) = start.split_once('=').ok_or(NO_VALUE)?;
    let value = &text[line.len() - start.len() + name.len() + 1..];
    let name = name.strip_prefix("export").filter(|rest| rest.starts_with(BLANKS)).unwrap_or(name).trim_matches(BLANKS);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return Err(NO_NAME);
    }
    let (value, after) = value_of(value)?;
    if value.contains('\0') { Err(NUL) } else { Ok((Some((name.to_owned(), value)), after)) }
}

/// The value that `text` starts with, and the lines after it.
fn value_of(text: &str) -> Result<(String, &str), (&'static str, &'static str)> {
    let start = text.trim_start_matches(BLANKS);
    let (value, rest) = if let Some(quoted) = start.strip_prefix('\'') {
        let (value, rest) = quoted.split_once('\'').ok_or(UNCLOSED)?;
        (value.to_owned(), rest)
    } else if let Some(quoted) = start.strip_prefix('"') {
        unquote(quoted).ok_or(UNCLOSED)?
    } else {
        let (line, after) = text.split_once('\n').unwrap_or((text, ""));
        let comment = line.match_indices('#').map(|(at, _)| at).find(|at| line[..*at].ends_with(BLANKS));
        return Ok((line[..comment.unwrap_or(line.len())].trim().to_owned(), after));
    };
    let (tail, after) = rest.split_once('\n').unwrap_or((rest, ""));
    let is_comment = tail.starts_with(BLANKS) && tail.trim_start_matches(BLANKS).starts_with('#');
    if tail.trim().is_empty() || is_comment { Ok((value, after)) } else { Err(MORE) }
}

/// What stands before the closing `"`, and what behind it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                // Of a regular expression, most likely.
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables, as `NAME=VALUE`, each in brackets.
    fn read(text: &str) -> String {
        parse(text).unwrap().into_iter().map(|(name, value)| format!("[{name}={value}]")).collect()
    }

    fn refused(text: &str) -> Vec<(usize, &'static str)> {
        parse(text).unwrap_err().into_iter().map(|bad| (bad.number, bad.fault.0)).collect()
    }

    #[test]
    fn a_line_is_a_variable() {
        for (text, expected) in [
            ("A=1\nB=2", "[A=1][B=2]"),
            ("\u{feff}A=1\r\nB=2\r\n", "[A=1][B=2]"),
            ("\n  \n# x\n  # y=1\n\t A=1 \t\n", "[A=1]"),
            ("export A=1\nexport\tB=2\nexport=3\nexported=4", "[A=1][B=2][export=3][exported=4]"),
            ("A = 1\nB\t=\t2", "[A=1][B=2]"),
            ("A=\nB= \nC=''\nD=\"\"", "[A=][B=][C=][D=]"),
            ("A=a b  c", "[A=a b  c]"),
            ("A=1 # x\nB=1\t#\nC=1#2\nD=#1\nE= # x", "[A=1][B=1][C=1#2][D=#1][E=]"),
            ("A=x=y;weight=2", "[A=x=y;weight=2]"),
            ("A=it's\nB=5\" # x", "[A=it's][B=5\"]"),
            ("lower_1=x\n_X=y", "[lower_1=x][_X=y]"),
            ("A=1\nA=2", "[A=1][A=2]"),
            ("", ""),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn quotes_keep_what_is_in_them() {
        for (text, expected) in [
            ("A='a # b'\nB=\"a # b\" # c", "[A=a # b][B=a # b]"),
            ("A='a\\n$b\"'", "[A=a\\n$b\"]"),
            (r#"A="a\nb\tc\"d\\e\$f""#, "[A=a\nb\tc\"d\\e$f]"),
            (r#"A="^\d+\.x$""#, r"[A=^\d+\.x$]"),
            ("A='10.0.0.1\r\n10.0.0.2'\nB=\"x\n\n#y\n\"\nC=1", "[A=10.0.0.1\n10.0.0.2][B=x\n\n#y\n][C=1]"),
            ("A=  ' a '  \nB='x'\t# y", "[A= a ][B=x]"),
            ("A='ü'\nB=\"ü\"", "[A=ü][B=ü]"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_put_in_for_a_dollar() {
        assert_eq!(read("A=$uri\nB=\"$request_id${A}\"\nC='$A'"), "[A=$uri][B=$request_id${A}][C=$A]");
    }

    #[test]
    fn bad_lines_are_named_by_their_number_and_not_shown() {
        for (text, expected) in [
            ("A=1\nsecret\n", vec![(2, NO_VALUE.0)]),
            ("=1\n1A=2\nA-B=3\nA B=4\nÄ=5\nexport =6", [1, 2, 3, 4, 5, 6].map(|n| (n, NO_NAME.0)).to_vec()),
            ("A='x\ny'\n\nsecret\n!=", vec![(4, NO_VALUE.0), (5, NO_NAME.0)]),
            ("A=1\nB='x\nC=2\n", vec![(2, UNCLOSED.0)]),
            ("B=\"x\\", vec![(1, UNCLOSED.0)]),
            ("B=\"x\\\"\nsecret", vec![(1, UNCLOSED.0)]),
            ("A='x'y\nsecret", vec![(1, MORE.0)]),
            ("A='x'#y", vec![(1, MORE.0)]),
            ("A=\0", vec![(1, NUL.0)]),
        ] {
            assert_eq!(refused(text), expected, "{text:?}");
            assert!(!format!("{:?}", parse(text)).contains("secret"));
        }
    }
}
