//! nginit.
fn main() {}
