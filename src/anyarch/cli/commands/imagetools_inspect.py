"""`anyarch imagetools inspect`"""
