//! `names_from`: the routes of mcp-authd's tokens, read as mcp-authd reads them.

use std::path::Path;

use mcp_daemon::config::ConfigError;
use mcp_daemon::tokens;

/// The routes of all tokens in a file or a directory; several tokens may have the same. An error never holds a piece of
/// a token.
pub fn read(path: &Path) -> Result<Vec<String>, ConfigError> {
    tokens::read(path)?.iter().map(|token| token.route().map(|route| route.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read(file.path())
            .map(|mut names| {
                names.sort();
                names
            })
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "F"))
    }

    #[test]
    fn the_routes_of_every_known_form_are_read() {
        for text in [
            "[token.terminal-a]\nhash = 'x'\n[token.other]\nroute = 'terminal-b'\nhash = 'y'",
            "{\"terminal-a\": \"s3cret-a\", \"terminal-b\": \"s3cret-b\"}",
            "\u{feff}[ {\"token\": \"s3cret\", \"route\": \"terminal-a\"}, {\"name\": \"terminal-b\", \"token\": \"x\"}]",
            "{\"terminal-a\": {\"token\": \"s3cret\"}, \"x\": {\"route\": \"terminal-b\"}}",
            "[token]\nterminal-a = 's3cret'\nterminal-b = 's3cret'",
        ] {
            assert_eq!(names(text).unwrap(), ["terminal-a", "terminal-b"], "{text}");
        }
        assert_eq!(names("[\"s3cret-s3cret-s3cret\"]").unwrap(), ["t-4a3057fd3371"]);
    }

    #[test]
    fn a_directory_has_the_routes_of_its_files() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("terminal-a"), "s3cret").unwrap();
        fs::write(directory.path().join("b.toml"), "route = 'terminal-b'").unwrap();
        assert_eq!(read(directory.path()).unwrap(), ["terminal-b", "terminal-a"]);
    }

    #[test]
    fn a_refusal_names_the_file_and_the_place_and_never_a_token() {
        for (text, expected) in [
            ("[token.a]\nroute = '../S3CRET'", "F:2: token.a.route: expected 1-63 of"),
            ("[\"S3CRET\"]", "F:1: [0].token: shorter than 16 characters"),
            ("listen = 'S3CRET'", "F:1: listen: expected [token.NAME]"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("S3CRET") && !error.contains('\n'), "{error}");
        }
        assert!(
            read(Path::new("/nonexistent/x")).unwrap_err().to_string().starts_with("/nonexistent/x: No such")
        );
    }
}
