//! integration-api
