"""Rural living environment (农村人居环境): what residents report and how it is put right, drinking-water
sources, and the ecology of farmland and villages. The ministry sets standards and watches; a county
accepts, assigns, verifies and assesses; townships and villages act on site. Today: the public report
loop (举报板块, domain ids H-9 and H-1) with its time limits."""
