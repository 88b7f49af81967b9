//! The configuration file of a witness, `witness.toml`: read by the same rules as the vault's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::given::{address, log_key, path};
use super::reader::{Document, Section};
use super::{Error, OTHER_VARIABLES};
use crate::merkle::note::VerifierKey;

/// All settings of one witness.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[witness]` `listen`: address and port. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `key`: its private key. By default `witness.key`.
    pub key: PathBuf,
    /// `state`: where it remembers what it has cosigned. By default `state`.
    pub state: PathBuf,
    /// `certificate` and `private_key`, PEM: with them it speaks TLS and nothing else, without them plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `[[logs]]` `key`: the public key of each log, at least one. Several keys of one name are keys of one log.
    pub logs: Vec<VerifierKey>,
}

impl Config {
    /// Reads `file`, with `variables` (of which only `CLOAKROOM_WITNESS__…` matter) laid over it.
    ///
    /// # Errors
    /// With every mistake that was found, in the order of the lines.
    pub fn load(file: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        Self::parse(file, &super::read(file)?, variables)
    }

    /// As [`Config::load`], with the text of the file given.
    ///
    /// # Errors
    /// With every mistake that was found, in the order of the lines.
    pub fn parse(
        file: &Path,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let document = Document::new(file, text, variables);
        let config = settings(&document);
        let mistakes = document.into_mistakes(&OTHER_VARIABLES);
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(Error::Mistakes(mistakes)),
        }
    }
}

pub(super) fn settings(document: &Document<'_>) -> Option<Config> {
    let mut root = document.root();
    let witness = witness(root.table("witness"));
    let logs = logs(root.tables("logs"));
    root.finish();
    Some(Config { logs: logs?, ..witness? })
}

/// Everything but the logs.
fn witness(mut section: Section<'_>) -> Option<Config> {
    let (folder, line) = (section.folder(), section.line());
    let listen = section.required("listen", address);
    let key = section.or("key", folder.join("witness.key"), path(folder));
    let state = section.or("state", folder.join("state"), path(folder));
    let certificate = section.located("certificate", path(folder));
    let private_key = section.located("private_key", path(folder));
    let tls = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => Some((certificate.value, private_key.value)),
        (None, None) => None,
        (Some(_), None) => {
            section.mistake(line, "private_key", "is missing, but there is a certificate".to_owned());
            return None;
        }
        (None, Some(_)) => {
            section.mistake(line, "certificate", "is missing, but there is a private key".to_owned());
            return None;
        }
    };
    section.finish();
    Some(Config { listen: listen?, key: key?, state: state?, tls, logs: Vec::new() })
}

fn logs(sections: Vec<Section<'_>>) -> Option<Vec<VerifierKey>> {
    let mut read = Vec::new();
    for mut section in sections {
        let key = section.required("key", log_key);
        section.finish();
        read.push(key);
    }
    read.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "dev.cloakroom.internal/vault+3eaf5283+AYmeZDD1quKdnxLZIlR+p4tGC8QdnpA+0l6uezJPsswI";
    const WITNESS: &str = "witness.example/w1+32a36494+BMI1hkWUFy+17tGv+SaEtXCXB6VLySnbd7jEr/FoOXNK";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/w.toml"), text, []).map_err(|error| error.to_string())
    }

    fn with(settings: &str, logs: &str) -> String {
        format!("[witness]\nlisten = \"127.0.0.1:0\"\n{settings}\n[[logs]]\n{logs}\n")
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let config = parse(&with("", &format!("key = \"{LOG}\""))).unwrap();
        assert_eq!((config.key, config.state), ("/etc/witness.key".into(), "/etc/state".into()));
        assert_eq!(config.tls, None);
        assert_eq!(config.logs, [LOG.parse().unwrap()]);
    }

    #[test]
    fn each_mistake_is_named_with_its_line() {
        let log = format!("key = \"{LOG}\"");
        for (text, expected) in [
            (with("stat = \"s\"", &log), "/etc/w.toml:3: witness.stat: unknown key; the nearest known one is `state`"),
            (with("", ""), "/etc/w.toml:4: logs.key: is missing; it has no default"),
            (
                with("", &format!("key = \"{WITNESS}\"")),
                "/etc/w.toml:5: logs.key: must be the line in the vault's log.vkey",
            ),
            (with("certificate = \"c\"", &log), "/etc/w.toml:1: witness.private_key: is missing"),
            (with("private_key = \"c\"", &log), "/etc/w.toml:1: witness.certificate: is missing"),
            ("[witness]\nlisten = \"127.0.0.1:0\"\n".to_owned(), "logs: at least one [[logs]] is needed"),
            ("logs = []\n[witness]\nlisten = \"127.0.0.1:0\"\n".to_owned(), "logs: at least one [[logs]] is needed"),
            (log.clone(), "the table [witness] is missing"),
        ] {
            let said = parse(&text).expect_err(&text);
            assert!(said.contains(expected), "{expected}\n{said}");
        }
    }

    #[test]
    fn the_environment_overrides_the_table() {
        let variable = ("CLOAKROOM_WITNESS__LISTEN".to_owned(), "127.0.0.1:9".to_owned());
        let text = with("", &format!("key = \"{LOG}\""));
        let config = Config::parse(Path::new("w.toml"), &text, [variable]).unwrap();
        assert_eq!(config.listen.port(), 9);
    }
}
