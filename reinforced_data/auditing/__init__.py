"""`audit` and `repair`: is a store whole, would its teachers agree, and doing again what is not."""
