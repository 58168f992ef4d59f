"""What takes minutes rather than seconds: runs that are disturbed at random, and inputs that are broken at random."""
