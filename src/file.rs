//! Files that people put in place: configuration, keys, certificates, checkpoints.
//!
//! In such a place may also be a named pipe, whose opening waits for somebody to write into it, or a device without an end.
//! Neither may hold up a start or fill the memory.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file to read. `None` if something else is there.
///
/// # Errors
/// If it can't be opened.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    // A pipe is opened and not waited for.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    // Of the open file, not of the path: nobody can swap it in between.
    let is_file = file.metadata()?.is_file();
    Ok(is_file.then_some(file))
}

/// Reads a file of at most so many bytes. For what is no secret: the bytes are not wiped but by the allocator.
///
/// # Errors
/// If it can't be read, is no file, or is larger.
pub fn read(path: &Path, at_most: u64) -> io::Result<Vec<u8>> {
    let Some(file) = open(path)? else {
        return Err(io::Error::other("it is no regular file"));
    };
    let mut bytes = Vec::new();
    file.take(at_most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > at_most {
        return Err(io::Error::other(format!(
            "it has more than {at_most} bytes, which nothing that belongs there has"
        )));
    }
    Ok(bytes)
}

/// As [`read`], of text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, at_most: u64) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path, at_most)?).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};

    #[test]
    fn a_file_is_read_as_far_as_it_may_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        assert!(read(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_file_holds_nobody_up_i_06() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
            assert!(open(path).unwrap().is_none(), "{}", path.display());
            assert!(read(path, 10).unwrap_err().to_string().contains("no regular file"), "{}", path.display());
        }
    }
}
