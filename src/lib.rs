//! nginit.
