//! Which file a command's first word means.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The executable file that `name` means: itself if there is a slash in it, else the first of that name in `path`, which
/// is the value of `$PATH`. `None` where the kernel would say that there is no such command.
pub fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into()).filter(|file: &PathBuf| is_executable(file));
    }
    std::env::split_paths(path?).map(|directory| directory.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_first_executable_file_on_the_path_is_found() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = std::env::join_paths([one.path(), two.path()]).unwrap();
        file(one.path(), "plain", 0o644);
        fs::create_dir(one.path().join("tool")).unwrap();
        let tool = file(two.path(), "tool", 0o755);
        assert_eq!(find("tool", Some(&path)), Some(tool.clone()));
        assert_eq!(find("plain", Some(&path)), None);
        assert_eq!(find("tool", None), None);
        assert_eq!(find(tool.to_str().unwrap(), None), Some(tool));
        assert_eq!(find("./tool", Some(&path)), None);
    }
}
