//! The `Range` header.

/// The requested range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The whole file.
    Whole,
    /// From the first offset to before the second one; never empty.
    Part(u64, u64),
    /// A range outside the file.
    Outside,
}

/// Parses the header for a file of this size. For a malformed header or several ranges the whole file is
/// sent, as RFC 9110 allows.
pub fn parse(header: Option<&str>, size: u64) -> Wanted {
    let spec = header.and_then(|h| h.trim().strip_prefix("bytes=")).map(str::trim);
    let Some((from, to)) = spec.filter(|s| !s.contains(',')).and_then(|s| s.split_once('-')) else {
        return Wanted::Whole;
    };
    let (from, to) = (from.trim(), to.trim());
    if from.is_empty() {
        return match to.parse::<u64>() {
            Err(_) => Wanted::Whole,
            Ok(0) => Wanted::Outside,
            Ok(_) if size == 0 => Wanted::Outside,
            Ok(last) => Wanted::Part(size.saturating_sub(last), size),
        };
    }
    let Ok(from) = from.parse::<u64>() else { return Wanted::Whole };
    let end = match to {
        "" => size,
        to => match to.parse::<u64>() {
            Ok(to) if to < from => return Wanted::Whole,
            Ok(to) => size.min(to.saturating_add(1)),
            Err(_) => return Wanted::Whole,
        },
    };
    if from >= size { Wanted::Outside } else { Wanted::Part(from, end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (header, wanted) in [
            (None, Wanted::Whole),
            (Some("bytes=0-3"), Wanted::Part(0, 4)),
            (Some("bytes=4-"), Wanted::Part(4, 10)),
            (Some("bytes=-3"), Wanted::Part(7, 10)),
            (Some("bytes=-30"), Wanted::Part(0, 10)),
            (Some("bytes=5-500"), Wanted::Part(5, 10)),
            (Some("bytes=10-"), Wanted::Outside),
            (Some("bytes=-0"), Wanted::Outside),
            (Some("bytes=3-1"), Wanted::Whole),
            (Some("bytes=0-1,3-4"), Wanted::Whole),
            (Some("lines=0-1"), Wanted::Whole),
            (Some("bytes=x-"), Wanted::Whole),
        ] {
            assert_eq!(parse(header, 10), wanted, "{header:?}");
        }
        assert_eq!(parse(Some("bytes=0-"), 0), Wanted::Outside);
    }
}
