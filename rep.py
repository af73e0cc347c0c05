import cascade, numpy as np
# the refusal reason that is false
d = cascade.derive(cascade.parse("input c[p,m]\nR[p] = mean[m](c[p,m])\nT[p] = sum[m]((c[p,m]-R[p])**9)\noutput T")); print(d.obstacles)
# steps 0 / nothing to do text, emit
print(cascade.derive(cascade.load("/work/main/examples/retention.cascade")))
