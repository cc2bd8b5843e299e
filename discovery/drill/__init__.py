"""``discovery drill``: rehearses failures against a running cluster and reports what its users would have noticed.

Acting (:mod:`scenarios`, :mod:`actor`) and measuring (:mod:`load`) are shells; judging and reporting are pure.
"""
