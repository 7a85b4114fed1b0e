-- Which exposures a person asked to validate, and which tenants have their leak key pair.
-- Written by credential-validator.

ALTER TABLE validator.exposures
    ADD COLUMN requested boolean NOT NULL DEFAULT false,   -- a person asked: history and switched-off rules do not matter
    ADD COLUMN date_precision text;                        -- how exact the capture dates are: instant | day | month | year

-- Asked across tenants by the loop that makes missing key pairs.
CREATE TABLE validator.sealing_key_tenants (
    tenant_id uuid PRIMARY KEY
);
COMMENT ON TABLE validator.sealing_key_tenants IS 'no-tenant: reached by parapet_validator, which makes missing key pairs';
GRANT SELECT, INSERT ON validator.sealing_key_tenants TO parapet_validator;
