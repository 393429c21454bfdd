# coding: utf-8
if 1:
	x = (
  1)
y = "é"\
