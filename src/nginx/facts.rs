//! What is known of an nginx binary: version, compiled-in paths, features.
//!
//! The texts come from `nginx -V`, or, without the price of starting it, from the binary itself,
//! which holds the same two lines. Pure: whoever reads or runs the binary hands the text in.

/// What one nginx binary says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Version, as in `nginx -v`.
    pub version: Version,
    /// The main configuration file that it reads unless told otherwise.
    pub conf_path: String,
    /// The directory that relative paths on its command line start from.
    pub prefix: String,
}

/// A version of nginx, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// `keepalive_min_timeout` came with 1.27.4 (<https://nginx.org/en/CHANGES>).
    pub fn has_keepalive_min_timeout(self) -> bool {
        self >= Self(1, 27, 4)
    }

    /// Since 1.29.7, connections to servers are kept unless `keepalive 0` says otherwise, which older
    /// versions do not take.
    pub fn has_keepalive_by_default(self) -> bool {
        self >= Self(1, 29, 7)
    }

    /// `resolve`, `service` and an upstream's own `resolver` came with 1.27.3 (<https://nginx.org/en/CHANGES>).
    pub fn has_resolve(self) -> bool {
        self >= Self(1, 27, 3)
    }

    /// `sticky` came with 1.29.6 (<https://nginx.org/en/CHANGES>).
    pub fn has_sticky(self) -> bool {
        self >= Self(1, 29, 6)
    }

    /// The directive `http2` came with 1.25.1, in place of a parameter of `listen`; with it, HTTP/1.1
    /// and HTTP/2 without TLS are spoken on one address (<https://nginx.org/en/CHANGES>).
    pub fn has_http2_directive(self) -> bool {
        self >= Self(1, 25, 1)
    }
}

const VERSION_LINE: &[u8] = b"nginx version: ";
const ARGUMENTS_LINE: &[u8] = b"configure arguments: ";

impl Facts {
    /// Finds both lines in `bytes`: what `nginx -V` printed, or a part of the binary. Nothing, where
    /// one is missing or cut off, or the version is not written as `NAME/1.2.3`.
    pub fn find(bytes: &[u8]) -> Option<Self> {
        let version = line_after(bytes, VERSION_LINE)?;
        let arguments = line_after(bytes, ARGUMENTS_LINE)?;
        let argument = |name: &str| {
            let value = arguments.split_ascii_whitespace().find_map(|word| word.strip_prefix(name))?;
            Some(value.trim_matches('\'').to_owned())
        };
        // nginx's own defaults of configure (auto/options).
        let prefix = argument("--prefix=").unwrap_or_else(|| "/usr/local/nginx".to_owned());
        let conf_path = argument("--conf-path=").unwrap_or_else(|| format!("{prefix}/conf/nginx.conf"));
        Some(Self { version: parse_version(version.split_once('/')?.1)?, conf_path, prefix })
    }
}

/// The rest of the line that starts with `start`, wherever in `bytes` it stands.
fn line_after<'a>(bytes: &'a [u8], start: &[u8]) -> Option<&'a str> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|b| *b == start[0])?;
        rest = &rest[at..];
        if let Some(tail) = rest.strip_prefix(start) {
            let end = tail.iter().position(|b| *b < b' ' || *b >= 0x7f)?;
            return std::str::from_utf8(&tail[..end]).ok();
        }
        rest = &rest[1..];
    }
}

/// Where an ELF file's read-only data is, by its first bytes: offset and length of every segment
/// that is loaded neither to be written nor to be executed, the last one first, because the
/// constants stand there (elf(5), `Elf64_Phdr`). None for other files.
pub fn read_only_segments(head: &[u8]) -> Vec<(u64, usize)> {
    const LOAD: u64 = 1;
    const READ_ONLY: u64 = 4;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let segments = || -> Option<Vec<(u64, usize)>> {
        // 64 bits, little-endian.
        head.starts_with(b"\x7fELF\x02\x01").then_some(())?;
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let segment = |index: u64| -> Option<(u64, usize)> {
            let at = usize::try_from(index.checked_mul(size)?.checked_add(table)?).ok()?;
            let wanted = number(at, 4)? == LOAD && number(at.checked_add(4)?, 4)? == READ_ONLY;
            let (offset, length) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?);
            wanted.then_some((offset, usize::try_from(length).ok()?))
        };
        Some((0..count).rev().filter_map(segment).collect())
    };
    segments().unwrap_or_default()
}

fn parse_version(text: &str) -> Option<Version> {
    let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut parts = text.splitn(3, '.').map(|part| part[..number(part)].parse().ok());
    Some(Version(parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lines_are_found_in_text_and_in_a_binary() {
        let text = "nginx version: nginx/1.30.6 (Debian)\nbuilt by gcc\nconfigure arguments: --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf\n";
        let facts = Facts::find(text.as_bytes()).unwrap();
        assert_eq!(facts.version, Version(1, 30, 6));
        assert_eq!((facts.prefix.as_str(), facts.conf_path.as_str()), ("/usr/share/nginx", "/etc/nginx/nginx.conf"));
        let binary = [b"\x7fELF\0nnginx\0nginx version: \xffnginx" as &[u8], b"\0"].concat();
        assert_eq!(Facts::find(&binary), None);
        assert_eq!(Facts::find(&text.as_bytes()[..text.len() - 1]), None, "a line that is cut off is not believed");
        let binary = b"\x7fELF\0nginx\0nginx version: openresty/1.27.1.1\0configure arguments:  --prefix='/opt/o'\0";
        let facts = Facts::find(binary).unwrap();
        assert_eq!((facts.version, facts.conf_path.as_str()), (Version(1, 27, 1), "/opt/o/conf/nginx.conf"));
    }

    #[test]
    fn segments_are_found_in_elf_files_alone() {
        let mut head = vec![0; 64 + 3 * 56];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (head[0x20], head[0x36], head[0x38]) = (64, 56, 3);
        for (index, flags) in [4, 5, 4].into_iter().enumerate() {
            let at = 64 + 56 * index;
            (head[at], head[at + 4], head[at + 9], head[at + 33]) = (1, flags, 0x10, index as u8 + 1);
        }
        assert_eq!(read_only_segments(&head), [(0x1000, 0x300), (0x1000, 0x100)]);
        for cut in 0..head.len() {
            let _ = read_only_segments(&head[..cut]);
        }
        assert!(read_only_segments(&[0xff; 4096]).is_empty() && read_only_segments(b"#!/bin/sh\n").is_empty());
        head[0x20..0x40].fill(0xff);
        assert!(read_only_segments(&head).is_empty(), "nonsense is none");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(Version(1, 27, 4).has_keepalive_min_timeout() && Version(1, 30, 0).has_keepalive_min_timeout());
        assert!(!Version(1, 22, 1).has_keepalive_min_timeout() && !Version(1, 9, 15).has_keepalive_min_timeout());
        assert!(Version(1, 25, 1).has_http2_directive() && !Version(1, 25, 0).has_http2_directive());
        for bad in ["", "1", "1.2", "a.b.c", "1..2", "99999.1.1"] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }
}
