//! A file transfer's channel from its request to its end, on a virtual clock, with every port faked.

mod both;
mod ending;
mod killing;
mod receiving;
mod sending;
mod storing;
mod support;
mod vanishing;
