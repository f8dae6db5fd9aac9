"""The loops that make hosts agree with the database: due work, expiry, and the comparison with what hosts report."""
