//! Words and columns for people: times, lines that no terminal takes for a command, tables.

use std::fmt::{self, Write};

/// Seconds, as a time in nginx's syntax of at most two units.
pub(super) struct Ago(pub(super) u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mins, hours, days) = (self.0 / 60, self.0 / 3600, self.0 / 86_400);
        let (large, unit, small, next) = match self.0 {
            0..60 => return write!(f, "{}s", self.0),
            60..3600 => (mins, "m", self.0 % 60, "s"),
            3600..86_400 => (hours, "h", mins % 60, "m"),
            _ => (days, "d", hours % 24, "h"),
        };
        if small == 0 { write!(f, "{large}{unit}") } else { write!(f, "{large}{unit}{small}{next}") }
    }
}

/// `text` in one line that no terminal takes for a command.
pub(super) fn one_line(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str(" | "),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Columns as wide as their widest field. A column without any is left out.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// Columns of numbers, which end at the same place instead of starting there.
    right: &'static [usize],
}

impl<const N: usize> Table<N> {
    /// One with this head.
    pub(super) fn new(head: [&str; N], right: &'static [usize]) -> Self {
        Self { rows: vec![head.map(str::to_owned)], right }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, fields: [String; N]) {
        self.rows.push(fields.map(|field| one_line(&field)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let used = |column: &usize| self.rows.iter().skip(1).any(|row| !row[*column].is_empty());
        let columns: Vec<(usize, usize)> = (0..N).filter(used).map(|column| (column, width(column))).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, width) in &columns {
                let field = &row[*column];
                let _ = match self.right.contains(column) {
                    true => write!(line, "{field:>width$}  "),
                    false => write!(line, "{field:<width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_at_most_two_units() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m59s"),
            (3600, "1h"),
            (86_399, "23h59m"),
            (90_000, "1d1h"),
            (u64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(Ago(secs).to_string(), text);
        }
    }
}
