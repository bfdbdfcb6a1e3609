"""What every request cost, took and said: metrics and one log line. Knows everything, decides nothing."""
