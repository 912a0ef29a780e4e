"""Physics of InSAR: arrays in, arrays out, no I/O.

Conventions: line-of-sight (LOS) displacement in metres, positive toward the satellite; interferometric
phase ``arg(reference · conj(secondary))`` in radians, positive away; unit vectors (east, north, up) from
the ground to the satellite; slope and aspect in degrees, aspect the downslope azimuth clockwise from
north.
"""
