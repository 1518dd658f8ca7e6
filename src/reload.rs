//! A candidate configuration: how it comes about, is tested and becomes the live one.
//!
//! [`candidate`] reads and renders, [`disk`] stages and publishes. The order of the steps is the
//! supervisor's.

pub mod candidate;
pub mod disk;
