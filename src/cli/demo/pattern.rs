//! Bytes that both ends can make up: what was lost, doubled or moved on the way does not fit.

/// A prime, so that no power of two that some buffer has lines up with it.
const LENGTH: usize = 1_000_003;

/// A cycle of pseudo-random bytes.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// The same bytes every time.
    pub fn new() -> Self {
        // Marsaglia's xorshift64.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(LENGTH + 8);
        while bytes.len() < LENGTH {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(LENGTH);
        Pattern(bytes)
    }

    /// Bytes from this place on: as many as lie together, at most `most`.
    pub fn from(&self, place: u64, most: u64) -> &[u8] {
        let start = (place % LENGTH as u64) as usize;
        let rest = &self.0[start..];
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        &rest[..rest.len().min(most)]
    }

    /// Whether these are the bytes from this place on.
    pub fn fits(&self, mut place: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let right = self.from(place, bytes.len() as u64);
            let (these, rest) = bytes.split_at(right.len());
            if these != right {
                return false;
            }
            place += these.len() as u64;
            bytes = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_fit_where_they_belong_and_nowhere_else() {
        let pattern = Pattern::new();
        let mut bytes = Vec::new();
        while bytes.len() < 3 * LENGTH {
            bytes.extend_from_slice(pattern.from(bytes.len() as u64, 70_000));
        }
        assert!(pattern.fits(0, &bytes));
        assert!(pattern.fits(5, &bytes[5..]));
        assert!(!pattern.fits(0, &bytes[1..]));
        assert!(!pattern.fits(0, &bytes[65_536..]));
        bytes[2 * LENGTH + 7] ^= 1;
        assert!(!pattern.fits(0, &bytes));
    }
}
