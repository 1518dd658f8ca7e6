//! Bytes as a configuration file of nginx that somebody else wrote: reading it never panics, and
//! what includes nothing of ours stays as it is.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nginit::nginx::conf;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = conf::sets(text, "daemon");
    let (base, ours, stage) = (Path::new("/etc/nginx"), Path::new("/etc/nginx/conf.d"), Path::new("/stage"));
    let (changed, includes) = conf::redirect_includes(text, base, ours, stage);
    if includes == 0 {
        assert_eq!(changed, text);
    } else {
        assert!(text.contains("include") && changed.contains("/stage"));
        // A path with quotes or escapes in it is nothing that anybody includes.
        if !text.contains(['"', '\'', '\\']) {
            let (again, more) = conf::redirect_includes(&changed, base, ours, stage);
            assert_eq!((again.as_str(), more), (changed.as_str(), 0), "redirected once and for all");
        }
    }
});
