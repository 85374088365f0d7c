"""What the stats RPCs do: readings of cgroups and networks."""
