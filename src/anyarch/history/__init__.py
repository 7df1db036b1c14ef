"""Records of builds: what was asked, when, how it ended, its log. A daemon writes them, its clients read
them."""
