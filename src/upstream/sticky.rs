//! Stickiness by a cookie: the name and attributes of the cookie.

use std::fmt::Write;

/// The cookie that ties a client to the server that answered first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// At most 80 letters, digits and `_`, so that `$cookie_NAME` is a variable of nginx.
    pub name: String,
    /// nginx's own way is not taken, even where nginx has one.
    pub hash: bool,
    /// Sent over https alone.
    pub secure: bool,
    /// With which requests from other sites it is sent; nothing leaves it to the browser.
    pub same_site: Option<SameSite>,
    /// The paths below which it is sent.
    pub path: String,
    /// The hosts to which it is sent; nothing is the one that set it.
    pub domain: Option<String>,
    /// How long it lives; nothing is until the browser is closed.
    pub expires: Option<Expires>,
}

/// With which requests from other sites a browser sends the cookie (RFC 6265bis, 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// None.
    Strict,
    /// Those that open a page.
    Lax,
    /// All; only with `secure`.
    None,
}

impl SameSite {
    /// As nginx and operators write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lax => "lax",
            Self::None => "none",
        }
    }
}

/// How long the cookie lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// This many seconds.
    Secs(u32),
    /// As long as nginx can say: ten years, until the end of 2037.
    Max,
}

impl Cookie {
    /// Whether nginit computes where it leads, given whether nginx has cookies of its own.
    pub fn is_ours(&self, nginx_has: bool) -> bool {
        self.hash || !nginx_has
    }

    /// nginx's own directive, without its semicolon
    /// (<https://nginx.org/en/docs/http/ngx_http_upstream_module.html#sticky>).
    pub fn to_nginx(&self) -> String {
        let mut out = format!("sticky cookie {}", self.name);
        match self.expires {
            Some(Expires::Secs(secs)) => drop(write!(out, " expires={secs}s")),
            Some(Expires::Max) => out.push_str(" expires=max"),
            None => {}
        }
        if let Some(domain) = &self.domain {
            let _ = write!(out, " domain={domain}");
        }
        out.push_str(" httponly");
        if self.secure {
            out.push_str(" secure");
        }
        if let Some(same_site) = self.same_site {
            let _ = write!(out, " samesite={}", same_site.word());
        }
        let _ = write!(out, " path={}", self.path);
        out
    }

    /// What follows the value in `Set-Cookie`, in nginx's order. Nobody but servers has a use for the
    /// cookie, so it is always `HttpOnly`.
    pub fn attributes(&self) -> String {
        let mut out = String::new();
        match self.expires {
            Some(Expires::Secs(secs)) => drop(write!(out, "; Max-Age={secs}")),
            Some(Expires::Max) => out.push_str("; Expires=Thu, 31-Dec-37 23:55:55 GMT; Max-Age=315360000"),
            None => {}
        }
        if let Some(domain) = &self.domain {
            let _ = write!(out, "; Domain={domain}");
        }
        out.push_str("; HttpOnly");
        if self.secure {
            out.push_str("; Secure");
        }
        out.push_str(match self.same_site {
            Some(SameSite::Strict) => "; SameSite=Strict",
            Some(SameSite::Lax) => "; SameSite=Lax",
            Some(SameSite::None) => "; SameSite=None",
            None => "",
        });
        let _ = write!(out, "; Path={}", self.path);
        out
    }
}
