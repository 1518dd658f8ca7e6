//! How nginx speaks to the servers of an upstream.

use super::HostName;

/// What nginx speaks to every server of an upstream; by default HTTP/1.1 without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protocol {
    /// gRPC over HTTP/2 instead of HTTP/1.1.
    pub grpc: bool,
    /// TLS, where it is spoken.
    pub tls: Option<PeerTls>,
}

/// How the servers of an upstream prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// Whether they have to.
    pub verify: bool,
    /// The name that is sent (SNI) and that their certificate must have; always there where they are
    /// verified and there are any.
    pub name: Option<HostName>,
    /// The file of the authorities that are trusted, an absolute path of plain characters; nothing
    /// means those of the system.
    pub ca: Option<String>,
}

impl Protocol {
    /// As an operator writes it, which is also the scheme of nginx's `proxy_pass` and `grpc_pass`.
    pub fn word(&self) -> &'static str {
        match (self.grpc, &self.tls) {
            (false, None) => "http",
            (false, Some(_)) => "https",
            (true, None) => "grpc",
            (true, Some(_)) => "grpcs",
        }
    }

    /// How nginx's directives for it start.
    pub fn module(&self) -> &'static str {
        if self.grpc { "grpc" } else { "proxy" }
    }

    /// Whether its servers are verified by the authorities of the system.
    pub fn needs_bundle(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.verify && tls.ca.is_none())
    }
}
