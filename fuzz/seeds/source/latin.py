# coding: latin-1
x = "é"
import os
eval("1")
