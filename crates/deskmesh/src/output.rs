//! What the commands say: tables for people, JSON for programs, and errors with a hint.
//!
//! Nothing else in the program writes to standard output, but the applications' own data. What comes
//! from other programs — names, addresses — is stripped of control characters before it reaches a
//! terminal.

use std::error::Error;
use std::io::{self, Write};

/// Done.
pub const EXIT_DONE: u8 = 0;
/// The question was understood, and the answer is no.
pub const EXIT_NO: u8 = 1;
/// The command line makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// No node answers.
pub const EXIT_UNREACHABLE: u8 = 3;
/// The configuration cannot be used: `EX_CONFIG` of `sysexits.h`.
pub const EXIT_CONFIG: u8 = 78;

/// Prints a line for people.
pub fn line(text: &str) {
    print(&printable(text), true);
}

/// Prints text that has its own line ends.
pub fn text(text: &str) {
    print(text, false);
}

/// Prints a JSON document, as one line.
pub fn json(document: &str) {
    print(document, true);
}

/// Prints an error and what to do about it, on standard error.
pub fn error(problem: &str, hint: &str) {
    let problem = printable(problem);
    complain(&format!("Error: {problem}\nHint: {}\n", printable(hint)));
}

/// Prints text that has its own line ends, on standard error.
pub fn error_text(text: &str) {
    complain(text);
}

/// Prints an error with its causes, and what to do about it.
pub fn error_chain(problem: &dyn Error, hint: &str) {
    error(&chain(problem), hint);
}

/// Prints something to look at, on standard error.
pub fn warning(text: &str) {
    complain(&format!("Warning: {}\n", printable(text)));
}

/// Returns an error and its causes as one sentence.
#[must_use]
pub fn chain(problem: &dyn Error) -> String {
    let mut text = problem.to_string();
    let mut cause = problem.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Rows in columns as wide as their widest cell. Columns of numbers are flush right.
#[derive(Clone, Debug)]
pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Text; control characters are replaced.
    Text(String),
    /// A number, already written.
    Number(String),
}

impl Cell {
    /// Returns a cell of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Returns a cell with a number.
    pub fn number(number: impl ToString) -> Self {
        Self::Number(number.to_string())
    }

    /// Returns a cell that says yes or no.
    #[must_use]
    pub fn yes(yes: bool) -> Self {
        Self::Text(if yes { "yes" } else { "no" }.to_owned())
    }
}

impl Table {
    /// Returns an empty table.
    #[must_use]
    pub fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each title.
    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.titles.len(), "a cell for each title");
        self.rows.push(row);
    }

    /// Returns the table as text, a line per row, without trailing spaces.
    #[must_use]
    pub fn render(&self) -> String {
        let rows: Vec<Vec<(String, bool)>> =
            self.rows.iter().map(|row| row.iter().map(shown).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
            cells.chain([self.titles[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        let flush_right = |column: usize| {
            !rows.is_empty() && rows.iter().all(|row| row.get(column).is_some_and(|(_, number)| *number))
        };
        let right: Vec<bool> = (0..self.titles.len()).map(flush_right).collect();

        let mut text = String::new();
        let titles = self.titles.iter().map(|title| (*title).to_owned()).collect();
        let rows = rows.into_iter().map(|row| row.into_iter().map(|(text, _)| text).collect());
        for row in std::iter::once::<Vec<String>>(titles).chain(rows) {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
                match right {
                    true => line.push_str(&format!("{cell:>width$}  ")),
                    false => line.push_str(&format!("{cell:<width$}  ")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the table.
    pub fn print(&self) {
        text(&self.render());
    }
}

fn shown(cell: &Cell) -> (String, bool) {
    match cell {
        Cell::Text(text) if text.is_empty() => ("-".to_owned(), false),
        Cell::Text(text) => (printable(text).replace('\n', "\u{fffd}"), false),
        Cell::Number(number) => (number.clone(), true),
    }
}

/// Returns the text without characters that move a terminal's cursor or turn its text around.
#[must_use]
pub fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' => c,
        c if c.is_control() => '\u{fffd}',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

// A reader that has seen enough closes the pipe, which is no error: `deskmesh apps | head`.
fn print(text: &str, end_line: bool) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    if end_line {
        let _ = stdout.write_all(b"\n");
    }
    let _ = stdout.flush();
}

fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_columns() {
        let mut table = Table::new(&["NAME", "SESSIONS", "STATE"]);
        table.push(vec![Cell::text("desk-1"), Cell::number(3), Cell::text("up")]);
        table.push(vec![Cell::text("schreibtisch-ü"), Cell::number(1200), Cell::text("")]);
        let expected = "\
NAME            SESSIONS  STATE
desk-1                 3  up
schreibtisch-ü      1200  -
";
        assert_eq!(table.render(), expected);
        assert_eq!(Table::new(&["NAME", "STATE"]).render(), "NAME  STATE\n");
    }

    #[test]
    fn disarms_what_applications_call_themselves() {
        let mut table = Table::new(&["NAME"]);
        table.push(vec![Cell::text("\u{1b}[2Jred\r\n\u{202e}x\u{9b}1m")]);
        assert_eq!(table.render(), "NAME\n\u{fffd}[2Jred\u{fffd}\u{fffd}\u{fffd}x\u{fffd}1m\n");
    }

    #[test]
    fn tells_the_causes() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("cannot read the file")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Outer(io::Error::other("disk is gone"))), "cannot read the file: disk is gone");
    }
}
