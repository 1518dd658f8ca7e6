//! nginit.
pub mod log;
pub mod settings;
pub mod upstream;
