//! Opaque page tokens: a place in an order, bound to what was asked for.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::ApiError;

const DEFAULT: i32 = 100;
const MOST: i32 = 1000;
const LONGEST: usize = 4096;

/// Rows per page.
pub fn size(asked: i32) -> Result<i64, ApiError> {
    match asked {
        0 => Ok(i64::from(DEFAULT)),
        1..=MOST => Ok(i64::from(asked)),
        _ => Err(ApiError::field("page_size", "give 0 to 1000")),
    }
}

/// What a token belongs to: the list and its filter. A token of another list or filter is refused.
#[derive(Clone, Copy, Debug)]
pub struct Scope([u8; 8]);

impl Scope {
    /// Of a request without its page fields.
    pub fn of(list: &str, filter: &impl Message) -> Self {
        let mut bytes = list.as_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&filter.encode_to_vec());
        let digest = digest::digest(&digest::SHA256, &bytes);
        let mut scope = [0; 8];
        for (to, from) in scope.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(scope)
    }

    /// The place a token names; none for an empty token.
    pub fn read<T: DeserializeOwned>(self, token: &str) -> Result<Option<T>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        let refused =
            || ApiError::field("page_token", "give the token of the previous page of the same request");
        if token.len() > LONGEST {
            return Err(refused());
        }
        let bytes = BASE64.decode(token).map_err(|_| refused())?;
        let (scope, place) = bytes.split_first_chunk::<8>().ok_or_else(refused)?;
        if *scope != self.0 {
            return Err(refused());
        }
        serde_json::from_slice(place).map(Some).map_err(|_| refused())
    }

    /// The token of a place.
    pub fn token(self, place: &impl Serialize) -> Result<String, ApiError> {
        let mut bytes = self.0.to_vec();
        serde_json::to_writer(&mut bytes, place)
            .map_err(|_| ApiError::Internal("a place cannot be written"))?;
        Ok(BASE64.encode(bytes))
    }

    /// Cuts a list that was asked for one row too many to its page, and makes the token of the next one.
    pub fn cut<T, P: Serialize>(
        self,
        rows: &mut Vec<T>,
        size: i64,
        place: impl Fn(&T) -> P,
    ) -> Result<String, ApiError> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if rows.len() <= size {
            return Ok(String::new());
        }
        rows.truncate(size);
        rows.last().map_or(Ok(String::new()), |last| self.token(&place(last)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::wire::v1;

    use super::*;

    fn scope(login: &str) -> Scope {
        Scope::of("exposures", &v1::ExposureFilter { login: login.into(), ..Default::default() })
    }

    #[test]
    fn a_token_names_its_place_and_is_bound_to_its_filter() {
        let token = scope("ann").token(&("key", 7)).unwrap();
        assert_eq!(scope("ann").read::<(String, i32)>(&token).unwrap(), Some(("key".into(), 7)));
        assert!(scope("bob").read::<(String, i32)>(&token).is_err());
        assert!(
            Scope::of("identities", &v1::ExposureFilter::default()).read::<(String, i32)>(&token).is_err()
        );
        assert_eq!(scope("ann").read::<(String, i32)>("").unwrap(), None);
    }

    #[test]
    fn the_last_page_has_no_token() {
        let mut rows = vec![1, 2, 3];
        assert_eq!(scope("").cut(&mut rows, 3, |r| *r).unwrap(), "");
        let token = scope("").cut(&mut rows, 2, |r| *r).unwrap();
        assert_eq!((rows, scope("").read::<i32>(&token).unwrap()), (vec![1, 2], Some(2)));
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in "\\PC{0,60}") {
            assert!(scope("").read::<(String, i32)>(&token).is_err() || token.is_empty());
        }
    }
}
