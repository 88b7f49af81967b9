//! What is different where a person reads: width, colours, progress. Programs that read a pipe get none of it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

/// Where the system does not know how wide a terminal is.
const USUAL_WIDTH: usize = 80;
/// Narrower than this nothing is worth breaking.
const LEAST_WIDTH: usize = 40;
/// So many lines are over before anybody asks how far it is.
const QUICK_LINES: u64 = 2_000;

/// What standard output goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Characters on a line. `None`: not a terminal.
    width: Option<usize>,
    colours: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Bold,
}

/// How far a long command is, on one line of standard error. Only where that is a terminal and the output goes elsewhere:
/// on the same terminal the output itself is the progress.
pub(super) struct Progress {
    shown: bool,
    wanted: bool,
    lines: u64,
    what: &'static str,
}

/// How far a long look at something is whose result comes at the end, on one line of standard error, where a person reads.
pub(super) struct Bar {
    wanted: bool,
    shown: bool,
}

impl Terminal {
    pub(super) fn of_output() -> Self {
        let output = std::io::stdout();
        if !output.is_terminal() {
            return Self { width: None, colours: false };
        }
        let columns = rustix::termios::tcgetwinsize(&output).map_or(0, |size| usize::from(size.ws_col));
        let width = if columns == 0 { USUAL_WIDTH } else { columns.max(LEAST_WIDTH) };
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { width: Some(width), colours: !set("NO_COLOR") && !dumb }
    }

    /// What a program reads.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { width: None, colours: false }
    }

    /// Characters on a line, if a person reads it.
    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// `text` in `colour`, where there are colours.
    pub(super) fn colour(&self, colour: Colour, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Bold => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Progress {
    pub(super) fn new() -> Self {
        let wanted = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        Self { wanted, ..Self::of("lines") }
    }

    /// Of a command that says nothing until it is done.
    pub(super) fn of(what: &'static str) -> Self {
        Self { shown: false, wanted: std::io::stderr().is_terminal(), lines: 0, what }
    }

    /// So many are done by now.
    pub(super) fn reach(&mut self, done: u64) {
        self.advance(usize::try_from(done.saturating_sub(self.lines)).unwrap_or(usize::MAX));
    }

    /// So many more lines are done.
    pub(super) fn advance(&mut self, lines: usize) {
        self.lines += lines as u64;
        if self.wanted && self.lines >= QUICK_LINES {
            self.shown = true;
            let _nobody_looks = write!(std::io::stderr(), "\r{} {}\x1b[K", self.lines, self.what);
        }
    }

    /// Makes room for a message, or for whatever comes after.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _nobody_looks = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { wanted: std::io::stderr().is_terminal(), shown: false }
    }

    /// So much of so much is done.
    pub(super) fn show(&mut self, done: u64, of: Option<u64>, unit: &str) {
        if !self.wanted {
            return;
        }
        self.shown = true;
        let text = match of.filter(|of| *of > 0) {
            Some(of) => bar(done, of, unit),
            None => format!("{done} {unit}"),
        };
        let _nobody_looks = write!(std::io::stderr(), "\r{text}\x1b[K");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown {
            let _nobody_looks = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: u64, of: u64, unit: &str) -> String {
    const CELLS: u64 = 20;
    let percent = u128::from(done.min(of)) * 100 / u128::from(of);
    let full = usize::try_from(percent * u128::from(CELLS) / 100).unwrap_or_default();
    let rest = usize::try_from(CELLS).unwrap_or_default() - full;
    format!("[{}{}] {percent:>3} %  {done} of {of} {unit}", "#".repeat(full), ".".repeat(rest))
}

/// `cells` with two spaces between, in as many lines as `width` asks for; lines after the first are indented. A cell that is
/// too long for a line stands on one of its own, whole: what people copy must not be cut.
pub(super) fn flow(cells: &[String], width: usize) -> String {
    const INDENT: usize = 4;
    let mut text = String::new();
    let mut used = 0;
    for cell in cells.iter().filter(|cell| !cell.is_empty()) {
        let length = cell.trim_end().chars().count();
        if used == 0 {
            text.push_str(cell);
            used = cell.chars().count();
        } else if used + 2 + length <= width {
            text.push_str("  ");
            text.push_str(cell);
            used += 2 + cell.chars().count();
        } else {
            text.truncate(text.trim_end().len());
            // Writing to a text can't fail.
            let _ = write!(text, "\n{:INDENT$}{cell}", "");
            used = INDENT + cell.chars().count();
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn cells_flow_within_the_width_and_are_never_cut() {
        let row = cells(&["1   ", "two  ", "", "three", "a-cell-longer-than-the-line", "end"]);
        assert_eq!(flow(&row, 18), "1     two    three\n    a-cell-longer-than-the-line\n    end");
        assert_eq!(flow(&row, 200), "1     two    three  a-cell-longer-than-the-line  end");
        assert_eq!(flow(&cells(&["only  "]), 3), "only");
    }

    #[test]
    fn a_bar_goes_from_empty_to_full() {
        assert_eq!(bar(0, 10, "MiB"), "[....................]   0 %  0 of 10 MiB");
        assert_eq!(bar(5, 10, "MiB"), "[##########..........]  50 %  5 of 10 MiB");
        assert_eq!(bar(11, 10, "MiB"), "[####################] 100 %  11 of 10 MiB");
    }

    #[test]
    fn nothing_is_coloured_where_nobody_reads() {
        let pipe = Terminal { width: None, colours: false };
        assert_eq!(pipe.colour(Colour::Red, "bad"), "bad");
        let terminal = Terminal { width: Some(80), colours: true };
        assert_eq!(terminal.colour(Colour::Red, "bad"), "\x1b[31mbad\x1b[0m");
    }
}
