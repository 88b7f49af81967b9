//! Policy files, read from a directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::mistake::{Mistake, Place, RulebookErrors};

/// The largest policy file. Real ones have a few kilobytes; more is something else put in its place.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most policy files.
const MAX_FILES: usize = 1_000;

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySource {
    /// Its name, for messages. Files are taken in the order of their names.
    pub file: String,
    /// What it says.
    pub text: String,
}

/// Reads every `*.cedar` in `directory`, each once and through one handle, so that what is checked is what is used.
/// Links are followed: that is how mounted configuration arrives.
pub fn read_directory(directory: &Path) -> Result<Vec<PolicySource>, RulebookErrors> {
    let found = scan_directory(directory);
    RulebookErrors::check(found.mistakes).map(|()| found.sources)
}

/// What a directory of policies holds.
#[derive(Debug, Default)]
pub struct Found {
    /// The files that can be read.
    pub sources: Vec<PolicySource>,
    /// What is wrong with the rest.
    pub mistakes: Vec<Mistake>,
    /// What the system said where it could not even look: that may be over soon, and nobody's mistake.
    pub unreadable: Option<io::Error>,
}

/// As [`read_directory`], but what can be read is there beside what is wrong with the rest, so that its mistakes can be
/// told too.
pub fn scan_directory(directory: &Path) -> Found {
    let mut found = Found::default();
    let mut files: Vec<_> = match list(directory) {
        Ok(files) => files,
        Err(error) => {
            found.mistakes = vec![refuse(directory, &format!("can't be read: {error}"), "check [policies] directory")];
            found.unreadable = Some(error);
            return found;
        }
    };
    files.sort();
    if files.len() > MAX_FILES {
        found.mistakes =
            vec![refuse(directory, &format!("has more than {MAX_FILES} policy files"), "put policies together")];
        return found;
    }
    for path in files {
        match read(&path) {
            Ok(source) => found.sources.push(source),
            Err((mistake, error)) => {
                found.mistakes.push(mistake);
                found.unreadable = error.or(found.unreadable);
            }
        }
    }
    found
}

fn list(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<PolicySource, (Mistake, Option<io::Error>)> {
    let file = path.display().to_string();
    let whole = |what: String, hint: &str| Mistake { place: Place::File(file.clone()), what, hint: hint.into() };
    let unreadable =
        |error: io::Error| (whole(format!("can't be read: {error}"), "check that the vault may read it"), Some(error));
    // Asked before opening: opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err((whole("is not a regular file".into(), "only files may be named *.cedar there"), None));
    }
    let mut bytes = Vec::new();
    let handle = File::open(path).map_err(unreadable)?;
    handle.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err((whole("is larger than 1 MiB".into(), "a policy file has a few kilobytes; is this one?"), None));
    }
    String::from_utf8(bytes).map(|text| PolicySource { file: file.clone(), text }).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let place = Place::within(&file, &String::from_utf8_lossy(good), good.len());
        let what = format!("byte 0x{:02x} is not UTF-8", bad.first().copied().unwrap_or_default());
        (Mistake { place, what, hint: "save the file as UTF-8".into() }, None)
    })
}

fn refuse(directory: &Path, what: &str, hint: &str) -> Mistake {
    Mistake { place: Place::File(directory.display().to_string()), what: what.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(directory: &Path) -> Vec<String> {
        let error = read_directory(directory).unwrap_err();
        let prefix = format!("{}/", directory.display());
        error.mistakes().iter().map(|m| format!("{}: {}", m.place, m.what).replace(&prefix, "")).collect()
    }

    #[test]
    fn files_come_in_the_order_of_their_names_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.cedar", "B"), ("a.cedar", "A"), ("notes.md", "C"), ("c.cedar~", "D")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("b.cedar"), dir.path().join("c.cedar")).unwrap();
        let texts: Vec<_> = read_directory(dir.path()).unwrap().into_iter().map(|source| source.text).collect();
        assert_eq!(texts, ["A", "B", "B"]);
    }

    #[test]
    fn there_are_at_most_a_thousand_files() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MAX_FILES {
            fs::write(dir.path().join(format!("{number}.cedar")), "").unwrap();
        }
        assert_eq!(read_directory(dir.path()).unwrap().len(), MAX_FILES);
        fs::write(dir.path().join("one more.cedar"), "").unwrap();
        let found = scan_directory(dir.path());
        assert!(found.sources.is_empty() && found.unreadable.is_none());
        assert_eq!(found.mistakes.len(), 1);
        assert_eq!(found.mistakes[0].what, "has more than 1000 policy files");
        fs::remove_file(dir.path().join("0.cedar")).unwrap();
        assert_eq!(read_directory(dir.path()).unwrap().len(), MAX_FILES);
    }

    #[test]
    fn a_file_that_leads_nowhere_is_named_and_the_others_are_there() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), dir.path().join("a.cedar")).unwrap();
        fs::write(dir.path().join("b.cedar"), "B").unwrap();
        let found = scan_directory(dir.path());
        assert_eq!(found.sources.iter().map(|source| source.text.as_str()).collect::<Vec<_>>(), ["B"]);
        assert_eq!(found.unreadable.map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        let said = messages(dir.path());
        assert!(said.len() == 1 && said[0].starts_with("a.cedar: can't be read: "), "{said:?}");
    }

    #[test]
    fn what_is_no_policy_file_is_refused_all_at_once_z_09() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.cedar"), b"// fine\n// \xc3\xa4 \xff").unwrap();
        fs::create_dir(dir.path().join("b.cedar")).unwrap();
        // A gigabyte of nothing: it takes no room on disk and is not read to its end.
        File::create(dir.path().join("c.cedar")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("d.cedar")).unwrap();
        assert_eq!(
            messages(dir.path()),
            [
                "b.cedar: is not a regular file",
                "c.cedar: is larger than 1 MiB",
                "d.cedar: is not a regular file",
                "a.cedar:2:6: byte 0xff is not UTF-8",
            ]
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_mistake_not_an_empty_one_z_09() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_directory(&dir.path().join("gone")).unwrap_err();
        assert!(error.to_string().contains("gone: can't be read"), "{error}");
        assert_eq!(read_directory(dir.path()), Ok(Vec::new()));
    }
}
