"""What the framework costs, as ratios to plain asyncio doing the same work. Run `make bench`."""
