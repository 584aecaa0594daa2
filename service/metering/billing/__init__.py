"""Money: months, rating, close, deduct, the monthly run. It should read like the purchase guide."""
