//! `audit checkpoint`: the log's newest signed statement of its size and root, to be kept where the vault can't reach.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::{Connection, Exit, Usage, note};
use crate::merkle::note::{Checkpoint, Note, VerifierKey};

/// Get the newest checkpoint: the log's size and root, signed.
///
/// Who keeps checkpoints can prove later that nothing before them was changed or dropped. Prints the signed note as the
/// vault gave it, on a terminal and elsewhere.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Verify the signature with the log's public key: the file log.vkey that `init` wrote, or that you were given.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Keep the note in this folder too, under the log's size. One that is there and differs is not replaced: that would be
    /// two histories of one log.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let key = options.key.as_deref().map(read_key).transpose()?;
    let text = options.connection.run(async |client| Ok(client.checkpoint().await?))?;
    let note_of_vault = Note::parse(&text).context("what the vault gave is no signed note")?;
    if let Some(key) = &key {
        note_of_vault.verify(std::slice::from_ref(key)).with_context(|| {
            format!(
                "the checkpoint is not signed with the key {}: do not trust what this vault says",
                key.name().as_str()
            )
        })?;
    }
    let checkpoint = Checkpoint::parse(note_of_vault.text()).context("what the vault signed is no checkpoint")?;
    if let Some(key) = &key
        && checkpoint.origin() != key.name()
    {
        bail!("the checkpoint is of the log {}, the key of {}", checkpoint.origin().as_str(), key.name().as_str());
    }
    if let Some(folder) = &options.save {
        let file = folder.join(checkpoint.size().to_string());
        let kept = keep(&file, &text, &checkpoint)?;
        note(&format!("cloakroom: {} {}", if kept { "kept as" } else { "already kept as" }, file.display()));
    }
    output.write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(Exit::Done)
}

fn read_key(file: &Path) -> anyhow::Result<VerifierKey> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Usage(format!("{}: cannot read the log's public key: {error}", file.display())))?;
    let key =
        text.trim().parse().map_err(|error| Usage(format!("{}: not a log's public key: {error}", file.display())));
    Ok(key?)
}

/// Whether it is new. The same statement may be signed twice: then the first note stays.
fn keep(file: &Path, text: &str, checkpoint: &Checkpoint) -> anyhow::Result<bool> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let failed = || format!("cannot write {}", file.display());
    match File::create_new(file) {
        Ok(mut new) => {
            new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).with_context(failed)?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let old = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let same = Note::parse(&old).ok().and_then(|old| Checkpoint::parse(old.text()).ok()).is_some_and(|old| {
                (old.origin(), old.size(), old.root()) == (checkpoint.origin(), checkpoint.size(), checkpoint.root())
            });
            if !same {
                bail!(
                    "{} holds another statement about a log of this size. If both are signed by this log, it has two \
                     histories: keep both notes, and compare them with `cloakroom audit verify`",
                    file.display()
                );
            }
            Ok(false)
        }
        Err(error) => Err(error).with_context(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Hash;
    use crate::merkle::note::{LogKey, Name};
    use crate::secret::SecretKey;

    fn note_of(size: u64, root: u8, extension: &str) -> (String, Checkpoint) {
        let name = Name::new("log.example").unwrap();
        let key = LogKey::from_seed(name.clone(), &SecretKey::new([7; 32]));
        let checkpoint = Checkpoint::new(name, size, Hash([root; 32]), vec![extension.to_owned()]).unwrap();
        (checkpoint.sign(&[&key]), checkpoint)
    }

    #[test]
    fn the_same_statement_is_kept_once_and_another_never_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kept/7");
        let (text, checkpoint) = note_of(7, 1, "time a");
        assert!(keep(&file, &text, &checkpoint).unwrap());
        let (again, checkpoint) = note_of(7, 1, "time b");
        assert!(!keep(&file, &again, &checkpoint).unwrap());
        let (other, checkpoint) = note_of(7, 2, "time a");
        let error = keep(&file, &other, &checkpoint).unwrap_err().to_string();
        assert!(error.contains("two histories"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "the first note stays");
    }
}
