//! Where the root key comes from. So far: a file that only its owner can read.

use super::entropy;
use crate::crypto::RootKey;
use crate::file;
use crate::secret::{SecretBytes, SecretKey};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "cloakroom-root-key-v1:";
/// Longer than any root key file.
const FILE_LENGTH_AT_MOST: usize = 1024;

/// A source of the root key.
pub trait Provider {
    /// Fetches the root key.
    ///
    /// # Errors
    /// [`ProviderError`] says what to do.
    fn root_key(&self) -> Result<RootKey, ProviderError>;
}

/// The provider `file`: one line, `cloakroom-root-key-v1:` and 64 hexadecimal digits, mode 0600 or stricter.
pub struct File {
    path: PathBuf,
}

/// Why there is no root key.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The file can't be read.
    #[error("can't read the key {path}: {error}. Check the path and that this user may read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than its owner may read or change it.
    #[error("the key {path} has mode {mode:04o}, so others can reach it. Run: chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who can change it and give it any mode.
    #[error("the key {path} belongs to user {owner}, but this runs as user {user}. Run: chown {user} {path}")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        user: u32,
    },
    /// A folder, a pipe or a device.
    #[error("the key {0} is not a regular file. Put a file with the key there, or correct the path")]
    NotAFile(PathBuf),
    /// It is not what `init` writes.
    #[error(
        "{0} is not a root key: it must be one line, `{PREFIX}` and 64 hexadecimal digits. Put the right file back, or correct the path"
    )]
    Malformed(PathBuf),
}

impl File {
    /// The root key in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes a new random root key to a file that must not exist yet.
    ///
    /// # Errors
    /// If there is no randomness, or the file exists or can't be written.
    pub fn create(path: &Path) -> io::Result<()> {
        let key = entropy::key().map_err(io::Error::other)?;
        let line = SecretBytes::new(format!("{PREFIX}{}\n", hex::encode(key.expose())).into_bytes());
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(line.expose())?;
        file.sync_all()
    }
}

/// Reads a file that holds a key, if nobody but its owner can reach it.
///
/// # Errors
/// [`ProviderError`] says what to do.
pub fn read_private(path: &Path) -> Result<SecretBytes, ProviderError> {
    let unreadable = |error| ProviderError::Unreadable { path: path.to_owned(), error };
    let mut file = file::open(path).map_err(unreadable)?.ok_or_else(|| ProviderError::NotAFile(path.to_owned()))?;
    let metadata = file.metadata().map_err(unreadable)?;
    check_mode(path, &metadata)?;
    // The buffer never grows, so no copy of a part stays behind.
    let mut content = SecretBytes::new(Vec::with_capacity(FILE_LENGTH_AT_MOST));
    Read::by_ref(&mut file).take(FILE_LENGTH_AT_MOST as u64).read_to_end(content.expose_mut()).map_err(unreadable)?;
    Ok(content)
}

impl Provider for File {
    fn root_key(&self) -> Result<RootKey, ProviderError> {
        let malformed = || ProviderError::Malformed(self.path.clone());
        let line = read_private(&self.path)?;
        let digits = line.expose().strip_prefix(PREFIX.as_bytes()).ok_or_else(malformed)?;
        let mut key = SecretKey::new([0; 32]);
        hex::decode_to_slice(digits.trim_ascii_end(), key.expose_mut()).map_err(|_| malformed())?;
        Ok(RootKey::new(key))
    }
}

fn check_mode(path: &Path, metadata: &std::fs::Metadata) -> Result<(), ProviderError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ProviderError::TooOpen { path: path.to_owned(), mode });
    }
    check_owner(path, metadata.uid(), rustix::process::geteuid().as_raw())
}

fn check_owner(path: &Path, owner: u32, user: u32) -> Result<(), ProviderError> {
    // Root could read it anyway.
    if owner != user && owner != 0 {
        return Err(ProviderError::NotOurs { path: path.to_owned(), owner, user });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_refuses_to_overwrite() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        File::create(&path).unwrap();
        assert!(File::new(&path).root_key().is_ok());
        assert!(File::create(&path).is_err());
    }

    #[test]
    fn refuses_anything_looser_than_0600_i_06() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        File::create(&path).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o660, 0o610, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(File::new(&path).root_key(), Err(ProviderError::TooOpen { .. })), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(File::new(&path).root_key().is_ok());
    }

    #[test]
    fn refuses_what_is_not_a_file_and_does_not_wait_for_it_i_06() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("root.key");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(File::new(&pipe).root_key(), Err(ProviderError::NotAFile(_))));
        assert!(matches!(File::new(directory.path()).root_key(), Err(ProviderError::NotAFile(_))));
    }

    #[test]
    fn refuses_what_is_not_a_key_without_echoing_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        std::fs::write(&path, "cloakroom-root-key-v1:00112233").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = File::new(&path).root_key().err().unwrap();
        assert!(!error.to_string().contains("00112233"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused_and_whose_it_is_is_said_i_06() {
        let path = Path::new("root.key");
        let said = check_owner(path, 1001, 1000).unwrap_err().to_string();
        assert_eq!(said, "the key root.key belongs to user 1001, but this runs as user 1000. Run: chown 1000 root.key");
        assert!(check_owner(path, 1001, 0).is_err(), "not even root takes what somebody else can change");
        assert!(check_owner(path, 0, 1000).is_ok() && check_owner(path, 1000, 1000).is_ok());
    }

    #[test]
    fn what_can_not_be_read_or_made_says_which_file_i_06() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        let said = File::new(&path).root_key().map(drop).unwrap_err().to_string();
        assert!(said.starts_with(&format!("can't read the key {}: No such file", path.display())), "{said}");
        let dry = entropy::fixture::dry_after(0);
        let refused = File::create(&path).unwrap_err().to_string();
        drop(dry);
        assert!(refused.contains("no randomness") && !path.exists(), "{refused}");
        for (content, is_key) in [
            ("", false),
            ("cloakroom-root-key-v1:", false),
            ("cloakroom-root-key-v2:5252525252525252525252525252525252525252525252525252525252525252\n", false),
            ("cloakroom-root-key-v1:525252525252525252525252525252525252525252525252525252525252525g\n", false),
            ("cloakroom-root-key-v1:5252525252525252525252525252525252525252525252525252525252525252\n", true),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            match File::new(&path).root_key() {
                Ok(_) => assert!(is_key, "{content}"),
                Err(error) => assert!(!is_key && error.to_string().contains("is not a root key"), "{content}: {error}"),
            }
        }
    }
}
