//! Dates of feeds: many spellings, often without a zone, sometimes only a year. Read as the span that surely holds
//! the moment meant, because "the latest moment the secret can have been captured" decides whether it is stale.

use time::{
    Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, format_description::well_known::Rfc3339,
};

/// How exact a date is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// To the second.
    Second,
    /// A day.
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Precision {
    /// The stable name, as sent to the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// A stretch of time that surely holds the moment a date names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub from: OffsetDateTime,
    /// Its end, inclusive.
    pub until: OffsetDateTime,
    /// How exact the date was.
    pub precision: Precision,
}

// Zones reach from UTC-12 to UTC+14: a local time is at most 14 h before and 12 h after the same digits in UTC.
const EAST: Duration = Duration::hours(14);
const WEST: Duration = Duration::hours(12);

impl Span {
    fn instant(at: OffsetDateTime) -> Self {
        Self { from: at, until: at, precision: Precision::Second }
    }

    fn local(from: PrimitiveDateTime, until: PrimitiveDateTime, precision: Precision) -> Option<Self> {
        Some(Self {
            from: from.assume_utc().checked_sub(EAST)?,
            until: until.assume_utc().checked_add(WEST)?,
            precision,
        })
    }

    fn days(first: Date, last: Date, precision: Precision) -> Option<Self> {
        Self::local(first.midnight(), last.checked_add(Duration::DAY)?.midnight(), precision)
    }

    /// Reads a date: RFC 3339; the same without a zone, with a blank for the `T`; `2026-01-05`, `2026-01`, `2026`;
    /// seconds or milliseconds since 1970. `None` when it is none of these.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
            return Some(Self::instant(at));
        }
        if let Some(span) = Self::calendar(text) {
            return Some(span);
        }
        let seconds: i64 = text.parse().ok().filter(|_| text.len() > 4)?;
        let seconds = if text.len() > 11 { seconds / 1000 } else { seconds };
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(Self::instant)
    }

    fn calendar(text: &str) -> Option<Self> {
        let (date, time) = match text.split_once(['T', ' ']) {
            Some((date, time)) => (date, Some(time)),
            None => (text, None),
        };
        let mut parts = date.split('-');
        let year: i32 = parts.next().filter(|y| y.len() == 4)?.parse().ok()?;
        let (month, day) = (parts.next(), parts.next());
        if parts.next().is_some() {
            return None;
        }
        let Some(month) = month else {
            let first = Date::from_calendar_date(year, Month::January, 1).ok()?;
            return Self::days(
                first,
                Date::from_calendar_date(year, Month::December, 31).ok()?,
                Precision::Year,
            );
        };
        let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
        let Some(day) = day else {
            let first = Date::from_calendar_date(year, month, 1).ok()?;
            return Self::days(first, first.replace_day(month.length(year)).ok()?, Precision::Month);
        };
        let day = Date::from_calendar_date(year, month, day.parse().ok()?).ok()?;
        let Some(time) = time else { return Self::days(day, day, Precision::Day) };
        let time = time.split('.').next()?.trim_end_matches('Z');
        let mut clock = time.split(':').map(|part| part.parse::<u8>().ok());
        let (hour, minute) = (clock.next()??, clock.next()??);
        let second = clock.next().unwrap_or(Some(0))?;
        let at = day.with_hms(hour, minute, second.min(59)).ok()?;
        if text.ends_with('Z') {
            return Some(Self::instant(at.assume_utc()));
        }
        Self::local(at, at, Precision::Second)
    }

    /// The span widened to a coarser precision that the feed states beside the date.
    #[must_use]
    pub fn widened(self, stated: Option<&str>) -> Self {
        let (precision, slack) = match stated {
            Some("year") => (Precision::Year, Duration::days(366)),
            Some("month") => (Precision::Month, Duration::days(31)),
            Some("day") => (Precision::Day, Duration::DAY),
            _ => return self,
        };
        if precision <= self.precision {
            return self;
        }
        let until = self.until.checked_add(slack).unwrap_or(self.until);
        Self { from: self.from.checked_sub(slack).unwrap_or(self.from), until, precision }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn every_spelling_is_read_and_the_span_never_excludes_the_moment_meant() {
        let exact = Span::parse("2026-01-05T10:00:00+02:00").unwrap();
        assert_eq!(
            (exact.from, exact.until),
            (datetime!(2026-01-05 08:00 UTC), datetime!(2026-01-05 08:00 UTC))
        );
        let zoneless = Span::parse("2026-01-05 10:00:00").unwrap();
        assert_eq!(zoneless.until, datetime!(2026-01-05 22:00 UTC));
        assert_eq!(zoneless.from, datetime!(2026-01-04 20:00 UTC));
        let day = Span::parse("2026-01-05").unwrap();
        assert_eq!((day.until, day.precision), (datetime!(2026-01-06 12:00 UTC), Precision::Day));
        let month = Span::parse("2024-02").unwrap();
        assert_eq!((month.until, month.precision), (datetime!(2024-03-01 12:00 UTC), Precision::Month));
        let year = Span::parse("2025").unwrap();
        assert_eq!((year.until, year.precision), (datetime!(2026-01-01 12:00 UTC), Precision::Year));
        assert_eq!(Span::parse("1700000000").unwrap(), Span::parse("1700000000000").unwrap());
        assert_eq!(Span::parse("2026-01-05T10:00:00.123456").unwrap().precision, Precision::Second);
        for bad in ["", "soon", "2026-13-01", "2026-02-30", "1-2-3-4", "2026-01-05Tx", "99999999999999999999"]
        {
            assert!(Span::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_stated_precision_only_ever_widens() {
        let day = Span::parse("2024-06-01T00:00:00Z").unwrap();
        assert!(day.widened(Some("year")).until >= datetime!(2024-12-31 23:59 UTC));
        assert_eq!(day.widened(Some("nonsense")), day);
        let year = Span::parse("2024").unwrap();
        assert_eq!(year.widened(Some("day")), year);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_reading_a_date_panic(text in ".{0,40}") {
            if let Some(span) = Span::parse(&text) {
                assert!(span.from <= span.until);
            }
        }
    }
}
