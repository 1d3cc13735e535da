//! Sockets that wait in a channel supervisor's hands until it is decided what becomes of them.

use std::collections::BTreeMap;

use crate::endpoint::Token;

/// Each under a token of its own.
pub(in crate::supervisor) struct Waiting<S> {
    last: u64,
    sockets: BTreeMap<Token, S>,
}

impl<S> Waiting<S> {
    pub(super) fn new() -> Self {
        Waiting {
            last: 0,
            sockets: BTreeMap::new(),
        }
    }

    /// A token that no socket had yet.
    pub(super) fn next(&mut self) -> Token {
        self.last += 1;
        Token(self.last)
    }

    pub(super) fn keep(&mut self, token: Token, socket: S) {
        self.sockets.insert(token, socket);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Token, &S)> {
        self.sockets.iter().map(|(token, socket)| (*token, socket))
    }

    /// It is decided.
    pub(in crate::supervisor) fn take(&mut self, token: Token) -> Option<S> {
        self.sockets.remove(&token)
    }

    /// Closes all of them.
    pub(in crate::supervisor) fn clear(&mut self) {
        self.sockets.clear();
    }
}
