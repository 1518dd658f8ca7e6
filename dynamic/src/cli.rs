//! The command line and the environment variables that stand in for it. Types and help texts only.

use std::net::SocketAddr;

use crate::announce::Announce;

/// A demo REST API: answers `/api/student` with random students and says in X-Server who answered.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub struct Cli {
    /// Address and port to listen on; port 0 takes any free one.
    ///
    /// The default takes IPv6 and IPv4, or IPv4 alone where the kernel has no IPv6.
    #[arg(long, env = "LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// What X-Server says; the host's name and the port when empty or not given.
    #[arg(long, env = "SERVER_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Announcing it to a proxy.
    #[command(flatten)]
    pub announce: Announce,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn listen_takes_both_families_and_refuses_the_rest() {
        for good in ["0.0.0.0:8080", "127.0.0.1:0", "[::]:8080", "[::1]:65535"] {
            assert!(Cli::try_parse_from(["dynamic", "--listen", good]).is_ok(), "{good}");
        }
        for bad in ["", "8080", "host:8080", "127.0.0.1", "127.0.0.1:99999", "::1:80:"] {
            assert!(Cli::try_parse_from(["dynamic", "--listen", bad]).is_err(), "{bad}");
        }
    }
}
