//! A copy as lines.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, anyhow};

use super::Copy;
use crate::cli::Usage;
use crate::event::view::{Renderer, View};
use crate::merkle::{Hash, Peaks, leaf_hash};
use crate::verify::export::{self, Consistency};

const BUFFER_BYTES: usize = 256 << 10;

/// Lines, into a file or to standard output.
pub(super) struct Lines<W: Write> {
    output: BufWriter<W>,
    /// The file behind the output, to be made durable.
    file: Option<File>,
    log: String,
    peaks: Peaks,
    /// The size of the checkpoint that is the last line.
    closed: Option<u64>,
    renderer: Renderer,
    line: Vec<u8>,
}

/// What a file has already.
struct Found {
    peaks: Peaks,
    /// Where to go on: behind the last line that stays.
    end: u64,
    closed: Option<u64>,
}

impl<W: Write> Lines<W> {
    /// Begins a copy behind `before`.
    pub(super) fn begin(output: W, log: &str, before: Peaks) -> anyhow::Result<Self> {
        let mut lines = Self::new(output, None, log, before, None);
        if lines.peaks.size() > 0 {
            export::start(log, &lines.peaks, &mut lines.line);
            lines.put()?;
        }
        Ok(lines)
    }

    fn new(output: W, file: Option<File>, log: &str, peaks: Peaks, closed: Option<u64>) -> Self {
        let output = BufWriter::with_capacity(BUFFER_BYTES, output);
        let (renderer, line) = (Renderer::default(), Vec::new());
        Self { output, file, log: log.to_owned(), peaks, closed, renderer, line }
    }

    fn put(&mut self) -> anyhow::Result<()> {
        self.output.write_all(&self.line).context("cannot write the copy")?;
        self.line.clear();
        Ok(())
    }
}

impl Lines<File> {
    /// Begins a copy in a new file.
    pub(super) fn create(path: &Path, log: &str, before: Peaks) -> anyhow::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Usage(format!("{} is there already: continue it with --resume, or name another", path.display()))
            }
            _ => Usage(format!("{}: cannot make the file: {error}", path.display())),
        })?;
        let mut lines = Self::begin(file.try_clone()?, log, before)?;
        lines.file = Some(file);
        Ok(lines)
    }

    /// Continues the copy in a file, or begins one.
    pub(super) fn resume(path: &Path, log: &str) -> anyhow::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(|error| Usage(format!("{}: cannot open the file: {error}", path.display())))?;
        let found = found(&file, log).with_context(|| format!("{} can't be continued", path.display()))?;
        file.set_len(found.end).context("cannot cut the file's last line")?;
        file.seek(SeekFrom::Start(found.end)).context("cannot go to the file's end")?;
        Ok(Self::new(file.try_clone()?, Some(file), log, found.peaks, found.closed))
    }
}

impl<W: Write> Copy for Lines<W> {
    fn next(&self) -> u64 {
        self.peaks.size()
    }

    fn root(&self) -> Hash {
        self.peaks.root()
    }

    fn entry(&mut self, leaf: &[u8]) -> anyhow::Result<()> {
        let sequence = self.next();
        let event =
            View::read(leaf).ok_or_else(|| anyhow!("the vault sent event {sequence}, which has no canonical form"))?;
        export::entry(&mut self.renderer, &event, &self.log, sequence, leaf, &mut self.line);
        self.peaks.append(leaf_hash(leaf));
        self.closed = None;
        self.put()
    }

    fn checkpoint(&mut self, note: &str, beyond: Option<&Consistency>) -> anyhow::Result<()> {
        // A second one of the same size would say nothing new.
        if self.closed != Some(self.next()) || beyond.is_some() {
            if let Some(proof) = beyond {
                export::consistency(proof, &mut self.line);
            }
            export::checkpoint(note, &mut self.line);
            self.put()?;
            self.closed = Some(self.next());
        }
        self.flush()?;
        self.file.as_ref().map_or(Ok(()), File::sync_data).context("cannot sync the copy")
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.output.flush().context("cannot write the copy")
    }
}

/// Reads a copy from its beginning. A last line without an end is left out, and so is what leads a part to a larger log.
fn found(file: &File, log: &str) -> anyhow::Result<Found> {
    let mut found = Found { peaks: Peaks::new(), end: 0, closed: None };
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        reader.read_until(b'\n', &mut line).context("cannot read the file")?;
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let not_ours =
            || anyhow!("line {number} is not what an export of this log writes there; `audit verify` says more");
        let text = std::str::from_utf8(text).map_err(|_| not_ours())?;
        if let Some((sequence, hash, rest)) = export::parse_head(text) {
            if found.end == 0 || number == 2 {
                other_log(rest, log)?;
            }
            let hash = export::parse_hash(hash).filter(|_| sequence == found.peaks.size()).ok_or_else(not_ours)?;
            found.peaks.append(hash);
            found.closed = None;
        } else if export::parse_checkpoint(text).is_some() {
            found.closed = Some(found.peaks.size());
        } else if let Some(peaks) = export::parse_start(text, log).filter(|_| number == 1) {
            found.peaks = peaks;
        } else if export::parse_consistency(text).is_some() {
            break;
        } else {
            return Err(not_ours());
        }
        found.end += line.len() as u64;
    }
    Ok(found)
}

fn other_log(rest: &str, log: &str) -> anyhow::Result<()> {
    let fields: serde_json::Value = serde_json::from_str(&format!("{{\"hash\":\"\"{rest}")).unwrap_or_default();
    match fields["log_id"].as_str() {
        Some(other) if other != log => {
            Err(Usage(format!("it is a copy of log {other}, and the vault's is {log}")).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{Event, finish};
    use crate::merkle::note::{Checkpoint, LogKey, Name};
    use crate::secret::SecretKey;
    use crate::verify::{Settings, lines};

    const LOG: &str = "example.org/log";

    fn leaf(sequence: u64) -> Vec<u8> {
        let event = Event { action: 1, caller: format!("c{sequence}"), ..Event::default() };
        finish(&event.encode_body(), Timestamp::from_millis(1000 * sequence))
    }

    fn key() -> LogKey {
        LogKey::from_seed(Name::new(LOG).unwrap(), &SecretKey::new([3; 32]))
    }

    fn extend(lines: &mut impl Copy, end: u64) {
        while lines.next() < end {
            lines.entry(&leaf(lines.next())).unwrap();
        }
        let checkpoint = Checkpoint::new(Name::new(LOG).unwrap(), end, lines.root(), vec![]).unwrap();
        lines.checkpoint(&checkpoint.sign(&[&key()]), None).unwrap();
    }

    fn holds(path: &Path, entries: u64) {
        let settings = Settings { keys: vec![key().verifier()], ..Settings::default() };
        let report = lines(&settings, BufReader::new(File::open(path).unwrap()), |_| {}).unwrap();
        assert!(report.holds(), "{:?}", report.findings);
        assert_eq!(report.entries, entries);
    }

    #[test]
    fn a_copy_cut_at_any_byte_is_continued_without_gap_or_duplicate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut whole = Lines::create(&path, LOG, Peaks::new()).unwrap();
        extend(&mut whole, 3);
        extend(&mut whole, 5);
        drop(whole);
        holds(&path, 5);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut again = Lines::resume(&path, LOG).unwrap();
            extend(&mut again, 5);
            drop(again);
            holds(&path, 5);
        }
        let mut again = Lines::resume(&path, LOG).unwrap();
        extend(&mut again, 5);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing new is nothing new");
        extend(&mut again, 9);
        holds(&path, 9);
    }

    #[test]
    fn a_file_that_is_there_or_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut one = Lines::create(&path, LOG, Peaks::new()).unwrap();
        extend(&mut one, 2);
        assert!(Lines::create(&path, LOG, Peaks::new()).is_err());
        let error = Lines::resume(&path, "example.org/other").err().unwrap();
        assert!(format!("{error:#}").contains("example.org/other"), "{error:#}");
        std::fs::write(&path, "a diary\n").unwrap();
        assert!(Lines::resume(&path, LOG).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a diary\n");
    }
}
