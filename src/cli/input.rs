//! Standard input or a file, line by line, in batches.
//!
//! Memory stays constant however long the input is: a batch has at most 1,000 lines and 2 MiB, and the channel to the
//! caller has room for few. A batch also ends where the input has nothing more ready, so a person or a program that waits
//! for an answer to its first line gets it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use tokio::sync::mpsc;

use super::{Usage, note};
use crate::secret::SecretBytes;

/// As many items as a call may have.
const BATCH_ITEMS: usize = 1_000;
/// Half of what a message may be: headers, lifetimes and the encoding fit beside it.
const BATCH_BYTES: usize = 2 << 20;
/// A single line. Longer ones can't be sent in one message.
const LINE_BYTES: usize = 3 << 20;
/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Batches that wait between the reader and the calls.
const WAITING_BATCHES: usize = 2;

/// One line of the input, as an item of a call or with the reason why it can't be one.
pub(super) struct Line<T> {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) item: Result<T, String>,
}

/// Lines that go into one call.
pub(super) type Batch<T> = Vec<Line<T>>;

/// Opens `file`, or standard input if there is none or it is `-`.
pub(super) fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn Read + Send>> {
    match file {
        Some(path) if path != Path::new("-") => {
            // The path is not repeated: it may be a value or a token that somebody took for an argument.
            let file = File::open(path).map_err(|error| {
                Usage(format!(
                    "cannot open the file that was named ({error}). Values and tokens are never arguments; give them on \
                     standard input"
                ))
            })?;
            Ok(Box::new(file))
        }
        _ => {
            let input = io::stdin();
            if input.is_terminal() {
                note("cloakroom: waiting for standard input, one item a line; Ctrl-D on an empty line ends it");
            }
            Ok(Box::new(input))
        }
    }
}

/// Reads `input` on a thread of its own, because reading standard input blocks. The thread ends with the input, or when
/// nobody takes its batches any more.
pub(super) fn batches<T: Send + 'static>(
    input: Box<dyn Read + Send>,
    parse: impl Fn(SecretBytes) -> Result<T, String> + Send + 'static,
) -> mpsc::Receiver<io::Result<Batch<T>>> {
    let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
    std::thread::spawn(move || {
        let give = |batch| sender.blocking_send(Ok(batch)).is_ok();
        if let Err(error) = read(input, parse, give) {
            // If nobody listens, nobody needs to know.
            let _unheard = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// Cuts the input into batches, each of which goes to `give` until that says that it is enough.
pub(super) fn read<T>(
    input: impl Read,
    parse: impl Fn(SecretBytes) -> Result<T, String>,
    mut give: impl FnMut(Batch<T>) -> bool,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, input);
    let (mut batch, mut bytes, mut number) = (Batch::new(), 0, 0);
    while let Some(line) = read_line(&mut reader)? {
        number += 1;
        let length = line.as_ref().map_or(0, SecretBytes::len);
        if !batch.is_empty() && bytes + length > BATCH_BYTES {
            if !give(std::mem::take(&mut batch)) {
                return Ok(());
            }
            bytes = 0;
        }
        bytes += length;
        batch.push(Line { number, item: line.and_then(&parse) });
        // An empty buffer means that the next line would be waited for.
        if batch.len() == BATCH_ITEMS || reader.buffer().is_empty() {
            if !give(std::mem::take(&mut batch)) {
                return Ok(());
            }
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        give(batch);
    }
    Ok(())
}

/// The next line without its end (`\n` or `\r\n`), `None` at the end of the input. A line that is too long is skipped
/// without being kept.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Result<SecretBytes, String>>> {
    let mut line: Option<SecretBytes> = None;
    let mut length = 0;
    loop {
        let buffer = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if buffer.is_empty() {
            return Ok(line.map(|line| finish(line, length)));
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        length += part.len();
        if length <= LINE_BYTES + 1 {
            line = Some(joined(line, part));
        } else if line.is_none() {
            line = Some(SecretBytes::new(Vec::new()));
        }
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(line.map(|line| finish(line, length)));
        }
    }
}

/// Puts two parts of a line into a new buffer of just the right size; the old one is wiped.
fn joined(line: Option<SecretBytes>, part: &[u8]) -> SecretBytes {
    match line {
        None => SecretBytes::new(part.to_vec()),
        Some(line) => SecretBytes::new([line.expose(), part].concat()),
    }
}

fn finish(mut line: SecretBytes, length: usize) -> Result<SecretBytes, String> {
    if line.expose().last() == Some(&b'\r') {
        line.expose_mut().pop();
    }
    if length > LINE_BYTES + 1 || line.len() > LINE_BYTES {
        return Err(format!("longer than {LINE_BYTES} bytes, which no message can hold"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one at a time, as a slow program would.
    struct Slow(Vec<&'static [u8]>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    /// Its number, and its bytes or what is wrong with it.
    type Numbered = (u64, Result<Vec<u8>, String>);

    fn all(input: impl Read) -> Vec<Vec<Numbered>> {
        let mut batches = Vec::new();
        let give = |batch: Batch<Vec<u8>>| {
            batches.push(batch.into_iter().map(|line| (line.number, line.item)).collect());
            true
        };
        read(input, |line| Ok(line.into_exposed()), give).unwrap();
        batches
    }

    #[test]
    fn a_value_that_was_taken_for_a_file_is_not_repeated_a_11() {
        let error = open(Some(Path::new("4111111111111111"))).err().unwrap();
        assert!(!format!("{error:#}").contains("4111"), "{error:#}");
    }

    #[test]
    fn lines_are_numbered_and_lose_their_ends_only() {
        let lines = all(&b"a\r\n\n c \nlast"[..]).concat();
        let expected: [(u64, &[u8]); 4] = [(1, b"a"), (2, b""), (3, b" c "), (4, b"last")];
        assert_eq!(lines, expected.map(|(number, line)| (number, Ok(line.to_vec()))));
        assert!(all(&b""[..]).is_empty());
    }

    #[test]
    fn what_is_ready_is_not_kept_waiting() {
        let batches = all(Slow(vec![b"one\ntw", b"o\n", b"three\n"]));
        assert_eq!(batches.len(), 2, "the half line waits for its end");
        assert_eq!(batches[0].len(), 2);
        assert_eq!(batches[1], [(3, Ok(b"three".to_vec()))]);
    }

    #[test]
    fn batches_have_at_most_a_thousand_lines_and_two_mebibytes() {
        let sizes: Vec<usize> = all(&b"x\n".repeat(2_500)[..]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let mut line = vec![b'x'; 700 << 10];
        line.push(b'\n');
        for batch in all(&line.repeat(7)[..]) {
            assert!(batch.iter().map(|(_, line)| line.as_ref().unwrap().len()).sum::<usize>() <= BATCH_BYTES);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_read() {
        let mut input = vec![b'x'; LINE_BYTES + 2];
        input.extend_from_slice(b"\nshort\n");
        let lines = all(&input[..]).concat();
        assert!(lines[0].1.as_ref().unwrap_err().contains("longer than"));
        assert_eq!(lines[1], (2, Ok(b"short".to_vec())));
    }
}
