//! New files in a new folder: created, never replaced, with their final mode from the first moment.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::Usage;
use crate::secret::SecretBytes;

/// A folder that was empty when it was taken.
pub(in crate::cli) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder, or takes an empty one, for its owner alone.
    pub(in crate::cli) fn create(path: &Path) -> anyhow::Result<Self> {
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Usage(format!("{} is not a folder; choose another name", path.display())).into());
            }
            other => other.with_context(|| format!("cannot make the folder {}", path.display()))?,
        }
        let mut content = path.read_dir().with_context(|| format!("cannot read the folder {}", path.display()))?;
        if let Some(found) = content.next() {
            let found = found.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
            let shown = path.display();
            let problem =
                format!("{shown} is not empty (it holds {found}); init never overwrites: choose another folder");
            return Err(Usage(problem).into());
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The first thing in it. Of two who found it empty at the same time, one makes this; the other has written nothing, and has
    /// nothing to take away.
    pub(in crate::cli) fn claim(&self, name: &str) -> anyhow::Result<()> {
        let claimed = self.directory(name);
        let is_taken = |error: &std::io::Error| error.kind() == ErrorKind::AlreadyExists;
        if claimed.as_ref().is_err_and(|error| error.downcast_ref().is_some_and(is_taken)) {
            let shown = self.path.display();
            return Err(Usage(format!(
                "another init writes to {shown} at this moment; leave that one alone, or choose another folder"
            ))
            .into());
        }
        claimed
    }

    pub(in crate::cli) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A folder inside, for the owner alone.
    pub(in crate::cli) fn directory(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))
    }

    /// A file that holds no secret.
    pub(in crate::cli) fn public(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        self.write(name, content, 0o644)
    }

    /// A file that only its owner may read.
    pub(in crate::cli) fn private(&self, name: &str, content: &SecretBytes) -> anyhow::Result<()> {
        self.write(name, content.expose(), 0o600)
    }

    /// Makes the names in it and in these folders inside durable.
    pub(in crate::cli) fn sync(&self, folders: &[&str]) -> anyhow::Result<()> {
        for name in [""].iter().chain(folders) {
            let path = self.path(name);
            File::open(&path)
                .and_then(|folder| folder.sync_all())
                .with_context(|| format!("cannot sync the folder {}", path.display()))?;
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let path = self.path(name);
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
