//! The wanted connectors on disk: one JSON file each, replaced atomically, so that they survive a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Config;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::TargetState;

const SUFFIX: &str = ".json";
const SUFFIX_UNFINISHED: &str = ".json.unfinished";

/// Kept as they are in file names; a dot is not among them, so that no name can mean another directory.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// A connector as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its configuration, references to secrets unresolved.
    pub config: Config,
    /// What it is wanted to do.
    pub state: TargetState,
}

/// A file of the store that cannot be used. The connector it held is not known; the others are.
#[derive(Debug, thiserror::Error)]
#[error("{} does not hold a connector: {why}; repair or remove the file, or submit the connector again", path.display())]
pub struct Corrupt {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// The store cannot be read or written. What was to be written surely is not in force; an older version may be.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}: {source}", path.display())]
pub struct StateError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Connectors by name, in a directory or (for tests and one-off runs) nowhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateStore {
    place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// Held while the store lives: two processes would run every connector twice.
    _lock: File,
}

impl StateStore {
    /// The store in `<state_dir>/connectors`, which is made if it is not there. Fails when another process holds it.
    pub fn open(state_dir: &Path) -> Result<StateStore, StateError> {
        let directory = state_dir.join("connectors");
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let path = state_dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let held = io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another sluice process uses this state.dir: give each its own, --set state.dir=DIR",
                );
                return Err(failed("lock", &path)(held));
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        Ok(StateStore { place: Some(Arc::new(Place { directory, _lock: lock })) })
    }

    /// A store that remembers nothing: connectors live as long as the process.
    pub fn forgetful() -> StateStore {
        StateStore { place: None }
    }

    /// Everything that is kept, in the order of the file names. Unfinished writes of a crash are removed.
    pub fn load(&self) -> Result<Vec<Result<Stored, Corrupt>>, StateError> {
        let Some(place) = &self.place else {
            return Ok(Vec::new());
        };
        let mut loaded = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&place.directory).map_err(failed("read", &place.directory))? {
            paths.push(entry.map_err(failed("read", &place.directory))?.path());
        }
        paths.sort();
        for path in paths {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(SUFFIX_UNFINISHED) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            } else if let Some(encoded) = name.strip_suffix(SUFFIX) {
                loaded.push(read(&path, encoded).map_err(|why| Corrupt { path: path.clone(), why }));
            }
        }
        Ok(loaded)
    }

    /// Keeps `stored` in place of what had its name. When it returns, it survives a crash of the machine.
    pub fn put(&self, stored: &Stored) -> Result<(), StateError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let path = place.path(&stored.name, SUFFIX);
        let unfinished = place.path(&stored.name, SUFFIX_UNFINISHED);
        let text = serde_json::to_vec_pretty(stored).expect("texts and an enum always serialize");
        write_private(&unfinished, &text).map_err(failed("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("replace", &path))?;
        place.sync()
    }

    /// Forgets `name`; a name that is not there is forgotten already.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let path = place.path(name, SUFFIX);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &path)(error)),
            Ok(()) => place.sync(),
        }
    }
}

impl Place {
    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", utf8_percent_encode(name, ENCODED)))
    }

    /// A rename or removal survives a crash only when its directory is synced too.
    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", &self.directory))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError { action, path, source }
}

/// Configurations may hold secrets: nobody else may read them.
fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn read(path: &Path, encoded: &str) -> Result<Stored, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let name = percent_decode_str(encoded).decode_utf8_lossy();
    if stored.name != name {
        return Err(format!("it holds connector {}, which belongs into another file", stored.name));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, state: TargetState) -> Stored {
        Stored { name: name.to_owned(), config: Config::from([("name".into(), name.into())]), state }
    }

    fn loaded(store: &StateStore) -> Vec<Stored> {
        store.load().unwrap().into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let names = ["a", "has space", "../../etc/x", "ünï-☃", "a/b", ".", "a.json"];
        let store = StateStore::open(home.path()).unwrap();
        for name in names {
            store.put(&stored(name, TargetState::Running)).unwrap();
        }
        store.put(&stored("a", TargetState::Paused)).unwrap();
        store.remove("a/b").unwrap();
        store.remove("a/b").unwrap();
        drop(store);

        let kept = loaded(&StateStore::open(home.path()).unwrap());
        assert_eq!(kept.len(), names.len() - 1);
        assert!(kept.contains(&stored("a", TargetState::Paused)));
        assert!(kept.contains(&stored("../../etc/x", TargetState::Running)));
        assert!(!kept.contains(&stored("a/b", TargetState::Running)));
        let files = fs::read_dir(home.path().join("connectors")).unwrap().count();
        assert_eq!(files, names.len() - 1, "every name is a file of the directory itself");
    }

    #[test]
    fn a_corrupt_file_harms_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let store = StateStore::open(home.path()).unwrap();
        store.put(&stored("good", TargetState::Stopped)).unwrap();
        let directory = home.path().join("connectors");
        let copy = fs::read(directory.join("good.json")).unwrap();
        fs::write(directory.join("copy.json"), copy).unwrap();
        fs::write(directory.join("half.json"), "{\"name\":\"half\",").unwrap();
        fs::write(directory.join("crashed.json.unfinished"), "{").unwrap();
        fs::write(directory.join("notes.txt"), "mine").unwrap();

        let loaded = store.load().unwrap();
        let good: Vec<&Stored> = loaded.iter().filter_map(|one| one.as_ref().ok()).collect();
        assert_eq!(good, [&stored("good", TargetState::Stopped)]);
        let errors: Vec<String> = loaded.iter().filter_map(|one| one.as_ref().err()).map(Corrupt::to_string).collect();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].contains("copy.json does not hold a connector: it holds connector good"), "{}", errors[0]);
        assert!(errors[1].contains("half.json does not hold a connector: EOF while parsing"), "{}", errors[1]);
        assert!(!directory.join("crashed.json.unfinished").exists());
        assert!(directory.join("notes.txt").exists());
    }

    #[test]
    fn a_second_process_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let first = StateStore::open(home.path()).unwrap();
        let error = StateStore::open(home.path()).unwrap_err();
        assert!(error.to_string().contains("another sluice process uses this state.dir"), "{error}");
        drop(first);
        StateStore::open(home.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        StateStore::open(home.path()).unwrap().put(&stored("a", TargetState::Running)).unwrap();
        let mode = fs::metadata(home.path().join("connectors/a.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
