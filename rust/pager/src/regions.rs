//! Where the VM's memory is in the address space of its VMM, as the VMM says.

use std::fmt;

use serde::Deserialize;

use crate::image::{PAGE, PageNumber};

/// A VM has two: below and above the addresses of devices.
const LIMIT: usize = 16;

/// A mapping, in the words of Firecracker. It knows more fields, of which versions differ.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Region {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
}

/// Why mappings are refused.
#[derive(Debug)]
pub enum RegionError {
    /// They are not JSON, or fields are missing.
    Syntax(serde_json::Error),
    /// There are none, or too many.
    Number(usize),
    /// One is empty, not aligned to pages, overlaps another one, or is not within the image.
    Bounds,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "the VMM's mappings cannot be read: {error}"),
            Self::Number(number) => write!(f, "the VMM has {number} mappings"),
            Self::Bounds => write!(f, "the VMM's mappings are not those of this memory"),
        }
    }
}

impl std::error::Error for RegionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(error) => Some(error),
            Self::Number(_) | Self::Bounds => None,
        }
    }
}

/// All mappings of a VM.
#[derive(Debug)]
pub struct Regions(Vec<Region>);

impl Regions {
    /// Reads the mappings of a VM whose memory has so many pages.
    pub fn parse(text: &[u8], pages: u64) -> Result<Regions, RegionError> {
        let mut regions: Vec<Region> = serde_json::from_slice(text).map_err(RegionError::Syntax)?;
        if regions.is_empty() || regions.len() > LIMIT {
            return Err(RegionError::Number(regions.len()));
        }
        let aligned = |number: u64| number.is_multiple_of(PAGE as u64);
        let within = |region: &Region| {
            let in_image = region.offset.checked_add(region.size).is_some_and(|end| end <= pages * PAGE as u64);
            let in_process = region.base_host_virt_addr.checked_add(region.size).is_some();
            let whole =
                region.size > 0 && [region.base_host_virt_addr, region.size, region.offset].into_iter().all(aligned);
            in_image && in_process && whole
        };
        let apart = |regions: &[Region], start: fn(&Region) -> u64| {
            regions.windows(2).all(|pair| start(&pair[0]) + pair[0].size <= start(&pair[1]))
        };
        if !regions.iter().all(within) {
            return Err(RegionError::Bounds);
        }
        regions.sort_unstable_by_key(|region| region.offset);
        if !apart(&regions, |region| region.offset) {
            return Err(RegionError::Bounds);
        }
        regions.sort_unstable_by_key(|region| region.base_host_virt_addr);
        if !apart(&regions, |region| region.base_host_virt_addr) {
            return Err(RegionError::Bounds);
        }
        Ok(Regions(regions))
    }

    /// Returns the page of the VM's memory at an address, or None if there is none.
    pub fn page(&self, address: u64) -> Option<PageNumber> {
        self.0.iter().find_map(|region| {
            let into = address.checked_sub(region.base_host_virt_addr).filter(|into| *into < region.size)?;
            Some((region.offset + into) / PAGE as u64)
        })
    }

    /// Returns the address of a page, and how many pages are in the same mapping from there on.
    pub fn address(&self, page: PageNumber) -> Option<(u64, u64)> {
        let offset = page.checked_mul(PAGE as u64)?;
        self.0.iter().find_map(|region| {
            let into = offset.checked_sub(region.offset).filter(|into| *into < region.size)?;
            Some((region.base_host_virt_addr + into, (region.size - into) / PAGE as u64))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Regions, RegionError> {
        Regions::parse(text.as_bytes(), 100)
    }

    #[test]
    fn pages_and_addresses_are_found_in_both_directions() {
        let regions = parse(
            r#"[{"base_host_virt_addr": 1048576, "size": 40960, "offset": 0, "page_size": 4096},
                {"base_host_virt_addr": 65536, "size": 8192, "offset": 40960, "page_size_kib": 4096}]"#,
        )
        .unwrap();
        assert_eq!(regions.page(1_048_576 + 4097), Some(1));
        assert_eq!(regions.page(65_536), Some(10));
        assert_eq!(regions.page(65_536 + 8192), None);
        assert_eq!(regions.page(0), None);
        assert_eq!(regions.address(11), Some((65_536 + 4096, 1)));
        assert_eq!(regions.address(0), Some((1_048_576, 10)));
        assert_eq!(regions.address(12), None);
        assert_eq!(regions.address(u64::MAX), None);
    }

    #[test]
    fn mappings_that_cannot_be_are_refused() {
        let one = |base: u64, size: u64, offset: u64| {
            format!(r#"{{"base_host_virt_addr": {base}, "size": {size}, "offset": {offset}}}"#)
        };
        for text in
            ["", "[", "{}", "[]", r#"[{"size": 4096}]"#, r#"[{"base_host_virt_addr": -1, "size": 1, "offset": 0}]"#]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        for regions in [
            vec![one(4096, 0, 0)],
            vec![one(4097, 4096, 0)],
            vec![one(4096, 4096, 1)],
            vec![one(4096, 101 * 4096, 0)],
            vec![one(4096, 4096, 100 * 4096)],
            vec![one(4096, 4096, u64::MAX - 4095)],
            vec![one(u64::MAX - 4095, 8192, 0)],
            vec![one(4096, 8192, 0), one(8192, 4096, 8192)],
            vec![one(4096, 8192, 0), one(40960, 4096, 4096)],
            vec![one(4096, 4096, 0); 17],
        ] {
            assert!(parse(&format!("[{}]", regions.join(","))).is_err(), "{regions:?}");
        }
    }
}
