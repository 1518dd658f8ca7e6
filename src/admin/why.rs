//! Why a server is in an upstream, or is not: what all sources and orders say of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{Ago, one_line};
use super::{Listing, ServerView, SourceView};

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// As it was asked for.
    pub server: String,
    /// Each place where it stands.
    pub found: Vec<Place>,
    /// The sources that cannot be read now, one of which may name it.
    pub failing: Vec<SourceView>,
}

/// A place where a server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// nginx's name of the upstream.
    pub upstream: String,
    /// The server there.
    pub server: ServerView,
}

/// What `listing` says of `server`: an address with or without its port, or a host name.
pub fn why(listing: &Listing, server: &str) -> Why {
    let places = listing.upstreams.iter().flat_map(|upstream| {
        let here = upstream.servers.iter().filter(|view| is_meant(view, server));
        here.map(|view| Place { upstream: upstream.name.clone(), server: view.clone() })
    });
    let failing = listing.sources.iter().filter(|source| source.error.is_some());
    Why { server: server.to_owned(), found: places.collect(), failing: failing.cloned().collect() }
}

/// Whether the server is the one that is asked for, in the spelling of its address or of the host
/// name that it came from, each with its port or without.
fn is_meant(view: &ServerView, asked: &str) -> bool {
    let bare = |text: &str| text.trim_matches(['[', ']']).to_ascii_lowercase();
    let is = |text: &str| {
        let host = text.rsplit_once(':').map(|(host, _)| host);
        text.eq_ignore_ascii_case(asked) || host.is_some_and(|host| bare(host) == bare(asked))
    };
    is(&view.address) || view.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(asked) || is(name))
}

/// A paragraph for each place.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.is_empty() {
            writeln!(f, "\"{}\" is in no upstream, and was in none lately", one_line(&self.server))?;
        }
        for Place { upstream, server } in &self.found {
            writeln!(f, "{} in {upstream}: {} for {}", server.address, server.state, Ago(server.since_secs))?;
            let from = if server.sources.is_empty() { "nobody".to_owned() } else { server.sources.join(", ") };
            let mut line = |name: &str, text: &str| writeln!(f, "  {name:<9}{}", one_line(text));
            line("named by", &from)?;
            line("weight", &server.weight.to_string())?;
            server.name.iter().try_for_each(|name| line("host", name))?;
            server.orders.iter().try_for_each(|order| line("order", order))?;
            server.expires_secs.iter().try_for_each(|secs| line("expires", &format!("in {}", Ago(*secs))))?;
            server.note.iter().try_for_each(|note| line("note", note))?;
        }
        for source in &self.failing {
            let since = source.error_secs.map_or_else(String::new, |secs| format!(" for {}", Ago(secs)));
            let error = one_line(source.error.as_deref().unwrap_or_default());
            writeln!(f, "{} {} has failed{since}: {error}", source.kind, one_line(&source.name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::listing::tests::{sources, upstream};

    fn asked(server: &str) -> Why {
        why(&Listing { upstreams: vec![upstream()], sources: sources() }, server)
    }

    #[test]
    fn a_server_is_found_by_each_of_its_names() {
        for name in ["10.0.0.1:8080", "10.0.0.1", "api", "API"] {
            let found = asked(name).found;
            assert!(matches!(&found[..], [place] if place.server.address == "10.0.0.1:8080"), "{name}: {found:?}");
        }
        for name in ["[fd00::1]:80", "[fd00::1]", "fd00::1", "FD00::1"] {
            assert_eq!(asked(name).found.len(), 1, "{name}");
        }
        for name in ["10.0.0", "10.0.0.1:80", "", "ap", "fd00", "10.0.0.9"] {
            assert_eq!(asked(name).found, [], "{name}");
        }
    }

    #[test]
    fn an_explanation_is_paragraphs_for_people() {
        let want = "\
10.0.0.2:80 in dynamic_backend: drain for 1m15s
  named by add
  weight   1
  order    drain
  order    weight=3
file /lists/x has failed for 9s: no such | file
";
        assert_eq!(asked("10.0.0.2").to_string(), want);
        assert!(asked("x\n").to_string().starts_with("\"x | \" is in no upstream, and was in none lately\nfile "));
    }
}
