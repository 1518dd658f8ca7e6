//! The one file of a set that no template makes: a server that answers the set's generation number
//! on a private unix socket, so that nginit can see what nginx serves.

use std::path::Path;

use super::MARK;
use crate::nginx::conf;

/// The file's name.
pub const NAME: &str = "nginit-generation.conf";

/// The file of the generation `number`: name and text.
pub fn file(number: u64, socket: &Path) -> (String, String) {
    let listen = conf::quoted(format!("unix:{}", socket.display()).as_ref());
    let text = format!(
        "{MARK}itself; changes are overwritten.\n\
         # What nginit asks to see which generation nginx serves.\n\
         server {{\n    listen {listen};\n    access_log off;\n    default_type text/plain;\n    limit_rate 0;\n    return 200 \"{number}\\n\";\n}}\n"
    );
    (NAME.to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_stays_one_word() {
        let (_, text) = file(7, Path::new("/a b/\"c\"/x.sock"));
        assert!(text.contains("    listen \"unix:/a b/\\\"c\\\"/x.sock\";\n"), "{text}");
        assert!(text.contains("return 200 \"7\\n\";"), "{text}");
    }
}
