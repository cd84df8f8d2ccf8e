r"""Gold answers and what a response says, by kind, with the right verdict each.

`gold ⇔ answer` is right, `gold ⇎ answer` is wrong. The answer stands in a box of the response; in
the kinds of RESPONSES the whole response is written. What is right is what the problem's setter
would grant without seeing the problem: the same value or object, in whatever writing. Units may be
left out, and must agree where both are named. A percentage is the number or its hundredth. Without
a box nothing was answered, which is the protocol's rule and not a matter of mathematics.
"""

from dataclasses import dataclass

RESPONSES = ("several boxes", "no box", "hostile responses")
WRITTEN = {
    "integers": r"""
27 ⇔ 27.0
25 ⇔ 025
0 ⇔ -0
-7 ⇔ −7
-7 ⇔ –7
7 ⇔ +7
42 ⇔ 42.
42 ⇔ $42$
42 ⇔ \(42\)
42 ⇔ \text{42}
42 ⇔ \mathbf{42}
42 ⇔  42
42 ⇔ {42}
42 ⇎ 24
42 ⇎ -42
42 ⇎ 42.5
42 ⇎ 4 2
42 ⇎ 420
1000000007 ⇎ 1000000008
1000000 ⇎ 1000000.5
12345678901234567890 ⇔ 12345678901234567890
12345678901234567890 ⇎ 12345678901234567891
12 ⇎ 1 2 3
34 ⇎ 3 4
2^{10} ⇔ 1024
10! ⇔ 3628800
1024 ⇎ 2^{11}
2^{100} ⇔ 1267650600228229401496703205376
2^{100} ⇎ 1267650600228229401496703205377
""",
    "decimals": r"""
0.5 ⇔ .5
0.5 ⇔ 0.50
0.5 ⇔ 1/2
-0.25 ⇔ -\frac14
1.75 ⇔ \frac{7}{4}
\frac{1}{3} ⇔ 0.3333333
0.3333333 ⇔ \frac{1}{3}
3.14 ⇎ \pi
\pi ⇎ 3.14
\sqrt{2} ⇎ 1.4
1.41421356 ⇔ \sqrt{2}
0.5 ⇎ 0.05
0.333 ⇎ \frac{1}{3}
0 ⇎ 1e-9
0 ⇎ 0.0000001
0.0000672 ⇔ 6.72e-5
0.0000672 ⇎ 6.73e-5
2.5 ⇎ 2.55
99.9 ⇎ 100
""",
    "powers of ten": r"""
4.5e33 ⇔ 4.5 \times 10^{33}
4.5e33 ⇔ 4.5\cdot10^{33}
1e-8 ⇔ 10^{-8}
1e-8 ⇎ 2e-8
6.6e-27 ⇎ 1.3e-27
3 \times 10^8 ⇔ 300000000
3 \times 10^8 ⇔ 3*10^8
3 \times 10^8 ⇔ 3×10^8
3 \times 10^8 ⇔ 3·10⁸
3 \times 10^8 ⇎ 3 \times 10^9
6.02 \times 10^{23} ⇎ 6.02 \times 10^{-23}
10^{-4} ⇔ 0.0001
10^{-4} ⇔ \frac{1}{10^4}
10^{-4} ⇎ 10^{-5}
""",
    "groups of three": r"""
1000 ⇔ 1,000
1000 ⇔ 1{,}000
1000 ⇔ 1\,000
1,234,567 ⇔ 1234567
1,234,567 ⇔ 1{,}234{,}567
1,234,567 ⇔ 1\,234\,567
1,234,567 ⇔ 1,\!234,\!567
1,234,567 ⇔ 1 234 567
11,\! 111,\! 111,\! 100 ⇔ 11,111,111,100
10,000 ⇔ 10000
-1,000 ⇔ -1000
1,000.5 ⇔ 1000.5
1234 ⇎ 1, 234
1234 ⇎ 12,34
1234 ⇎ 1 2 3 4
1,234 ⇎ 1,235
12,345 ⇎ 12345.5
""",
    "fractions": r"""
\frac{1}{2} ⇔ 1/2
\frac{1}{2} ⇔ \dfrac{1}{2}
\frac{1}{2} ⇔ \tfrac12
\frac{1}{2} ⇔ \frac12
\frac{1}{2} ⇔ \frac 1 2
\frac{1}{2} ⇔ \frac{2}{4}
\frac{1}{2} ⇔ ½
\frac{3}{4} ⇔ ¾
\frac{1}{2} ⇔ {1}/{2}
\frac{1}{2} ⇔ \left(\frac{1}{2}\right)
\frac{1}{2} ⇔ 2^{-1}
-\frac{1}{3} ⇔ \frac{-1}{3}
-\frac{1}{3} ⇔ \frac{1}{-3}
-1/3 ⇔ -\frac{1}{3}
\frac{14}{3} ⇔ 14/3
\frac{1}{2} ⇎ \frac{1}{3}
\frac{1}{2} ⇎ 2
\frac{1}{2} ⇎ -\frac{1}{2}
\frac{3}{56} ⇎ \frac{3}{65}
\frac{1}{2^{99}} ⇔ 2^{-99}
\frac{1}{2^{99}} ⇎ \frac{1}{2^{98}}
\frac{1}{3^{50}} ⇎ \frac{1}{3^{51}}
\frac{1}{10^{12}} ⇎ 0
\frac{2}{2^{100}} ⇔ \frac{1}{2^{99}}
\frac{123456789}{987654321} ⇎ \frac{123456788}{987654321}
\frac{x}{2} ⇔ x/2
\frac{x}{2} ⇔ \frac12 x
\frac{x}{2^{99}} ⇎ \frac{x}{2^{98}}
""",
    "mixed numbers": r"""
1\frac{1}{2} ⇔ \frac{3}{2}
1\frac{1}{2} ⇔ 1 1/2
1\frac{1}{2} ⇔ 1.5
1 1/2 ⇔ 3/2
3/2 ⇔ 1 1/2
\frac{3}{2} ⇔ 1\frac{1}{2}
\frac{11}{4} ⇔ 2 \frac{3}{4}
\frac{11}{4} ⇔ 2\dfrac34
\frac{11}{4} ⇔ 2 3/4
\frac{11}{4} ⇔ 2¾
-2\frac{1}{3} ⇔ -\frac{7}{3}
-\frac{7}{3} ⇔ -2 1/3
11/2 ⇎ 1 1/2
1\frac{1}{2} ⇎ \frac{11}{2}
2\frac{3}{4} ⇎ \frac{23}{4}
2\frac{3}{4} ⇎ \frac{3}{2}
1 1/2 ⇎ 1 1/3
1 1/2 ⇎ -1 1/2
""",
    "percent": r"""
50\% ⇔ 50\%
50\% ⇔ 50%
50\% ⇔ 50
50 ⇔ 50\%
50 ⇔ 50 %
50\% ⇔ 0.5
0.5 ⇔ 50\%
50\% ⇔ \frac{1}{2}
\frac{1}{2} ⇔ 50\%
12.5\% ⇔ 0.125
12.5\% ⇔ 12.5 \text{ percent}
12.5\% ⇔ 12.5 percent
33\frac{1}{3}\% ⇔ \frac{1}{3}
66\frac{2}{3} ⇔ 66\frac{2}{3}\%
50\% ⇎ 5\%
50\% ⇎ 0.05
50\% ⇎ 500\%
50\% ⇎ 500
12.5\% ⇎ 12\%
50\% ⇎ 51
-20\% ⇔ -0.2
-20\% ⇎ 20\%
""",
    "money": r"""
36 ⇔ \$36
\$36 ⇔ 36
\$18.90 ⇔ 18.90
18.90 ⇔ \$18.9
\$1,200 ⇔ 1200
€18 ⇔ 18
18 ⇔ €18
18 ⇔ £18
18 ⇔ ¥18
32,\!348 ⇔ \$32{,}348
\$18 ⇎ \$81
€18 ⇎ 19
18 ⇎ \$18.5
5 ⇔ 5 \text{ dollars}
""",
    "units": r"""
5 \text{ m} ⇔ 5
5 ⇔ 5 \text{ m}
5 \text{ m} ⇔ 5 m
5 \text{ cm} ⇔ 5\mathrm{~cm}
5 \text{ cm} ⇔ 5 \, \text{cm}
5 \text{ cm} ⇔ 5 centimeters
5 \text{ meters} ⇔ 5 \text{ m}
5 \text{ feet} ⇔ 5\text{ ft}
5 \text{ inches} ⇔ 5 \text{ inch}
15\mbox{ cm}^2 ⇔ 15
15\mbox{ cm}^2 ⇔ 15 \text{ cm}^2
15 \text{ cm}^2 ⇔ 15 \text{ square centimeters}
145^\circ ⇔ 145
145 ⇔ 145^{\circ}
145 ⇔ 145°
145^\circ ⇔ 145 \text{ degrees}
60 \text{ mph} ⇔ 60
60 ⇔ 60 \text{ km/h}
10 \text{ seconds} ⇔ 10 s
3 \text{ hours} ⇔ 3 h
24 ⇔ 24 \text{ ways}
24 \text{ ways} ⇔ 24
7 ⇔ 7 \text{ apples}
\frac{3}{2} \text{ hours} ⇔ 1.5
5.4 \text{ cents} ⇔ 5.4
864 \mbox{ inches}^2 ⇔ 864
2\pi \text{ cm} ⇔ 2\pi
5 m ⇎ 5 km
5 \text{ m} ⇎ 5 \text{ km}
5 \text{ cm} ⇎ 5 \text{ mm}
5 \text{ m} ⇎ 6 \text{ m}
5 \text{ m} ⇎ 6
3 \text{ hours} ⇎ 3 \text{ minutes}
15 \text{ cm}^2 ⇎ 15 \text{ cm}^3
15 \text{ cm}^2 ⇎ 15 \text{ cm}
5 \text{ kg} ⇎ 5 \text{ g}
145^\circ ⇎ 154^\circ
5 \text{ dollars} ⇎ 5 \text{ cents}
60 \text{ mph} ⇎ 60 \text{ km/h}
""",
    "repeating decimals": r"""
0.\overline{3} ⇔ \frac{1}{3}
\frac{1}{3} ⇔ 0.\overline{3}
\frac{1}{3} ⇔ 0.\bar{3}
\frac{1}{3} ⇔ 0.\dot{3}
\frac{1}{3} ⇔ 0.333...
\frac{1}{3} ⇔ 0.333\ldots
0.\overline{36} ⇔ \frac{4}{11}
0.1\overline{6} ⇔ \frac{1}{6}
0.\overline{9} ⇔ 1
0.\overline{142857} ⇔ \frac17
0.\overline{3} ⇎ 0.3
0.\overline{3} ⇎ \frac{3}{10}
0.\overline{36} ⇎ 0.36
0.\overline{36} ⇎ \frac{3}{8}
0.1\overline{6} ⇎ 0.\overline{16}
""",
    "bases": r"""
1011_2 ⇔ 1011_2
1011_2 ⇔ 1011_{2}
1011_2 ⇔ 1011
1011_2 ⇔ 1011_{\text{two}}
2516_8 ⇔ 2516
2516_8 ⇔ 2516_{8}
4343_6 ⇔ 4343_{6}
4343_6 ⇔ 4343
1A3_{16} ⇔ 1A3_{16}
204_5 ⇔ 204_{5}
1011_2 ⇎ 1011_3
1011_2 ⇎ 1101_2
2516_8 ⇎ 2516_7
204_5 ⇎ 240_5
1A3_{16} ⇎ 1B3_{16}
4343_6 ⇎ 4344
""",
    "surds": r"""
2\sqrt{3} ⇔ \sqrt{12}
2\sqrt{3} ⇔ 2\sqrt3
2\sqrt{3} ⇔ 2√3
\sqrt{2} ⇔ √2
\sqrt{2} ⇔ √(2)
\sqrt{2} ⇔ 2^{1/2}
\sqrt{2} ⇔ 2^{\frac{1}{2}}
\frac{\sqrt{2}}{2} ⇔ \frac{1}{\sqrt{2}}
\frac{\sqrt{3}}{3} ⇔ 1/√3
\sqrt[3]{2} ⇔ 2^{1/3}
1+\sqrt{2} ⇔ \sqrt{2}+1
3\sqrt{13} ⇔ \sqrt{117}
\sqrt{5-2\sqrt{6}} ⇔ \sqrt{3}-\sqrt{2}
5\sqrt{2}+3 ⇔ 3 + 5 \sqrt 2
2\sqrt{3} ⇔ 2 \cdot \sqrt{3}
2\sqrt{3} ⇔ 2*sqrt(3)
\sqrt{51} ⇔ sqrt(51)
2\sqrt{3} ⇎ 3\sqrt{2}
\sqrt{2} ⇎ \sqrt{3}
\sqrt{2} ⇎ 2
1+\sqrt{2} ⇎ 1-\sqrt{2}
\sqrt[3]{2} ⇎ \sqrt{2}
\sqrt{23} ⇎ 2\sqrt{3}
3+\sqrt{2} ⇎ 3\sqrt{2}
""",
    "constants": r"""
\pi ⇔ π
2\pi ⇔ 2 \pi
2\pi ⇔ 2π
2\pi ⇔ 2*pi
\frac{\pi}{2} ⇔ \pi/2
\frac{\pi}{2} ⇔ 0.5\pi
\frac{\pi}{2} ⇔ \frac{1}{2}\pi
e^2 ⇔ e^{2}
\ln 2 ⇔ \ln(2)
\ln 2 ⇔ \log_e 2
\ln 4 ⇔ 2\ln 2
\sin\frac{\pi}{6} ⇔ \frac12
\cos 60^\circ ⇔ \frac{1}{2}
3+4i ⇔ 4i+3
6 - 5i ⇔ 6-5i
i ⇎ -i
3+4i ⇎ 3-4i
2\pi ⇎ \pi
\frac{\pi}{2} ⇎ \frac{\pi}{3}
\ln 2 ⇎ \ln 3
e^2 ⇎ e^3
e^{-50} ⇎ e^{-51}
""",
    "infinities": r"""
\infty ⇔ ∞
\infty ⇔ +\infty
\infty ⇔ \text{infinity}
-\infty ⇔ -∞
(-\infty, 0) ⇔ (-∞,0)
(2,\infty) ⇔ (2, +\infty)
(2,\infty) ⇔ (2,∞)
\infty ⇎ -\infty
\infty ⇎ 1000000
(2,\infty) ⇎ (-\infty,2)
(2,\infty) ⇎ [2,\infty)
""",
    "superscripts and signs": r"""
25 ⇔ 5²
x^2 ⇔ x²
x^{10} ⇔ x¹⁰
x^2+1 ⇔ x²+1
x-1 ⇔ x–1
x-1 ⇔ x − 1
-5 ⇔ –5
2 \cdot 3 ⇔ 2·3
6 ⇔ 2×3
x_1 ⇔ x_{1}
25 ⇎ 5³
x^2 ⇎ x³
x-1 ⇎ x+1
x_1 ⇎ x_2
""",
    "intervals": r"""
(1,2) ⇔ (1, 2)
[0,1] ⇔ [0, 1]
[0,1) ⇔ \left[0,1\right)
(0,\frac{1}{2}) ⇔ (0, 0.5)
(-\infty, 0) \cup\{1\} ⇔ (-\infty,0) \cup \{1\}
(-\infty,1)\cup(2,\infty) ⇔ (-\infty, 1) \cup (2, \infty)
(-\infty,1)\cup(2,\infty) ⇔ (-∞,1)∪(2,∞)
(-\infty,1)\cup(2,\infty) ⇔ (2,\infty)\cup(-\infty,1)
[-2,7] ⇔ \left[ -2, 7 \right]
x \in [0,1] ⇔ [0,1]
[0,1] ⇔ x \in [0,1]
[0,1] ⇎ (0,1)
[0,1] ⇎ [0,1)
[0,1) ⇎ (0,1]
[0,1] ⇎ [0,2]
[0,1] ⇎ [1,0]
(-\infty,1)\cup(2,\infty) ⇎ (-\infty,1)
(-\infty,1)\cup(2,\infty) ⇎ (-\infty,1]\cup(2,\infty)
(0,1000000) ⇎ (0,1000000.5)
""",
    "tuples": r"""
(1,2) ⇔ (1,2)
(3, \frac{\pi}{2}) ⇔ \left( 3, \frac{\pi}{2} \right)
\left( 3, \frac{\pi}{2} \right) ⇔ (3,\pi/2)
(1,-3,5) ⇔ (1, -3, 5)
(\frac12, 0.25) ⇔ (0.5, \frac14)
(6,31,-1) ⇔ (6, 31, -1)
(x,y)=(1,2) ⇔ (1,2)
(1,2) ⇔ (x,y)=(1,2)
(1,2) ⇎ (2,1)
(1,2) ⇎ (1,2,3)
(1,2,3) ⇎ (1,3,2)
(1,2) ⇎ (1,-2)
(1,2) ⇎ 12
(1,2) ⇎ (12)
(3, \frac{\pi}{2}) ⇎ (3, \frac{\pi}{3})
(2^{-99},1) ⇎ (2^{-98},1)
""",
    "sets and lists": r"""
3, 5, 7 ⇔ 7,5,3
3, 5, 7 ⇔ 3,5,7
3, 5, 7 ⇔ 3, 5 and 7
3, 5, 7 ⇔ 3, 5, \text{ and } 7
\{1,2,3\} ⇔ \{3,2,1\}
\{1,2,3\} ⇔ \left\{1, 2, 3\right\}
\{1,2\} ⇔ 1,2
1,-2 ⇔ -2, 1
1,-2 ⇔ x=1, x=-2
1,-2 ⇔ x = 1 \text{ or } x = -2
1,-2 ⇔ 1 or -2
\frac12, 3 ⇔ 3, 0.5
1 \pm \sqrt{19} ⇔ 1-\sqrt{19}, 1+\sqrt{19}
1 \pm \sqrt{19} ⇔ 1+\sqrt{19}, 1-\sqrt{19}
1-\sqrt{19}, 1+\sqrt{19} ⇔ 1\pm\sqrt{19}
\pm 2 ⇔ 2,-2
\pm 2 ⇔ ±2
\emptyset ⇔ \varnothing
\emptyset ⇔ \{\}
(1,2),(3,4) ⇔ (3,4),(1,2)
(1,2), (3,4) ⇔ (1,2),(3,4)
\{1,2,3\} ⇎ \{1,2\}
3, 5, 7 ⇎ 3, 5
3, 5, 7 ⇎ 3, 5, 8
3, 5, 7 ⇎ 3, 5, 7, 9
\pm 2 ⇎ 2
1,-2 ⇎ 1,2
1, 2 ⇎ 3
\{1,2\} ⇎ \{1,3\}
(1,2),(3,4) ⇎ (1,3),(2,4)
1, 1000000 ⇎ 1, 1000000.5
""",
    "matrices": r"""
\begin{pmatrix}1&2\\3&4\end{pmatrix} ⇔ \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇔ \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇔ \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇔ \left(\begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix}\right)
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇔ \begin{pmatrix} 1 & 2 \\[2pt] 3 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇔ \left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]
\begin{pmatrix} \frac{1}{2} \\ 0 \end{pmatrix} ⇔ \begin{pmatrix} 1/2 \\ 0 \end{pmatrix}
\begin{pmatrix} \frac{1}{2} \\ 0 \end{pmatrix} ⇔ \begin{pmatrix} 0.5 \\ 0 \end{pmatrix}
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} ⇔ \begin{pmatrix}-\frac13\\\frac23\\\frac53\end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} ⇔ \begin{pmatrix} 1\\ 2 \\ \end{pmatrix}
\begin{pmatrix} \sqrt{2} & 0 \\ 0 & 1 \end{pmatrix} ⇔ \begin{pmatrix}√2&0\\0&1\end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇎ \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇎ \begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} ⇎ \begin{pmatrix} 1 & 2 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} ⇎ \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ⇎ 1234
\begin{pmatrix} 2^{-99} \\ 1 \end{pmatrix} ⇎ \begin{pmatrix} 2^{-98} \\ 1 \end{pmatrix}
\begin{pmatrix} 12 \\ 3 \end{pmatrix} ⇎ \begin{pmatrix} 1 \\ 23 \end{pmatrix}
""",
    "words": r"""
\text{Evelyn} ⇔ Evelyn
\text{Evelyn} ⇔ \text{evelyn}
\text{Evelyn} ⇔ \textbf{Evelyn}
\text{Evelyn} ⇔ \mathrm{Evelyn}
\text{east} ⇔ east
\text{No solution} ⇔ \text{no solution}
\text{No solution} ⇔ no solution
\text{Yes} ⇔ Yes
\text{even} ⇔ even
\text{odd} ⇔ \text{odd}
\text{(C)} ⇔ C
\text{(C)} ⇔ (C)
C ⇔ \text{C}
C ⇔ (C)
\text{Monday} ⇔ Monday
\text{ellipse} ⇔ an ellipse
ABC ⇔ ABC
ABC ⇎ BCA
\text{east} ⇎ \text{seat}
east ⇎ seat
\text{even} ⇎ \text{odd}
\text{Evelyn} ⇎ \text{Angela}
\text{Yes} ⇎ \text{No}
\text{(C)} ⇎ (D)
C ⇎ D
\text{listen} ⇎ silent
\text{Monday} ⇎ \text{Sunday}
\text{No solution} ⇎ \text{one solution}
\text{true} ⇎ \text{false}
\text{parabola} ⇎ \text{hyperbola}
""",
    "ranges": r"""
10-20 ⇔ 10–20
10–20 ⇔ 10-20
10–20 ⇔ 10 – 20
10–20 ⇎ 10–30
10–20 ⇎ -10
10–20 ⇎ 20–10
0 < x < 5 ⇔ 0<x<5
1 \le x \le 2 ⇔ 1 \leq x \leq 2
x > 5 ⇔ x>5
x \geq 5 ⇔ x≥5
x \geq 5 ⇔ 5 \leq x
x \geq 5 ⇎ x > 5
x \geq 5 ⇎ x \leq 5
0 < x < 5 ⇎ 0 < x < 6
""",
    "expressions": r"""
x+1 ⇔ 1+x
x+1 ⇔ (x+1)
x^2-1 ⇔ (x-1)(x+1)
2x+3 ⇔ 3 + 2x
\frac{1}{2n+2} ⇔ \frac{1}{2(n+1)}
2 \cos (\pi t+\pi / 3) ⇔ 2\cos(\pi t + \frac{\pi}{3})
y = -2x ⇔ -2x
-2x ⇔ y = -2x
x = 5 ⇔ 5
5 ⇔ x = 5
5 ⇔ x=5
y = 2x + 1 ⇔ y=1+2x
x^3+3x-6 ⇔ x^3 + 3x - 6
\pi r^2 ⇔ \pi r^{2}
ab ⇔ ba
xyz ⇔ zyx
2xy ⇔ 2yx
n(n+1)/2 ⇔ \frac{n(n+1)}{2}
\binom{5}{2} ⇔ 10
3^{n} ⇔ 3^n
|x| ⇔ \left|x\right|
x^{1/2} ⇔ \sqrt{x}
x+1 ⇎ x-1
x+1 ⇎ x+2
2x ⇎ 3x
x ⇎ y
x^2 ⇎ 2x
x^2-1 ⇎ (x-1)^2
y = -2x ⇎ y = 2x
x = 5 ⇎ 6
5 ⇎ x = 6
x = 5 ⇎ y = 5
\sin x ⇎ \cos x
ab ⇎ a+b
n(n+1)/2 ⇎ n(n-1)/2
5m ⇎ 5n
10^{-20}x ⇎ 2\cdot 10^{-20}x
""",
    "hostile": r"""
3 ⇎ 9^{9^{9^9}}
3 ⇎ 10^{10^{10}}
3 ⇎ 1/0
3 ⇎ \frac{1}{0}
3 ⇎ 1e999999999
3 ⇎ \boxed{
3 ⇎ {{{{{{{{{{{{{{{{{{{{
3 ⇎ \frac{}{}
3 ⇎ \sqrt{}
3 ⇎ \text{}
3 ⇎ __import__('os').system('true')
3 ⇎ import os
3 ⇎ \\
3 ⇎ &&&
3 ⇎ ^^^
3 ⇎ ,
3 ⇎ nan
3 ⇎ None
3 ⇎ x
3 ⇎ \undefined
3 ⇎ 3 or 4
3 ⇎ 3, 4
3 ⇎ ٣٣
3 ⇎ (((((((((((((((3)+1)+1)+1)+1)+1)+1)+1)+1)+1)+1)+1)+1)+1)+1)
3 ⇎ \int_0^\infty \sin(\sin(x^x)) dx
3 ⇎ 100!!!!
""",
    "several boxes": r"""
5 ⇔ First \boxed{3}, but that is wrong, so \boxed{5}.
5 ⇔ \boxed{5} and again: \boxed{5}
5 ⇔ \boxed{5}, \boxed{5}
1,2 ⇔ The solutions are \boxed{1} and \boxed{2}.
1,2 ⇔ The solutions are $\boxed{1}$ and $\boxed{2}$.
1,2 ⇔ \boxed{1}, \boxed{2}
1,2,3 ⇔ \boxed{1}, \boxed{2}, and \boxed{3}
5 ⇔ \boxed{3} Wait, I made a mistake. The sum of the digits is rather $\boxed{5}$
5 ⇔ \boxed{5} and then \boxed{unfinished
5 ⇔ \boxed{\boxed{5}}
\frac{1}{2} ⇔ \boxed{\frac{1}{2}}
\{1, 2\} ⇔ \boxed{\{1, 2\}}
5 ⇔ \fbox{5}
5 ⇔ \boxed {5}
5 ⇔ \boxed 5
5 ⇎ \boxed{5} and \boxed{6}
5 ⇎ \boxed{5}, \boxed{6}
5 ⇎ \boxed{5}. No: \boxed{6}
5 ⇎ \boxed{6} or \boxed{5}
1,2 ⇎ \boxed{1} and \boxed{3}
1,2 ⇎ First \boxed{1}, which after a much longer consideration of the problem becomes \boxed{2}
""",
    "no box": r"""
5 ⇎ The answer is 5.
5 ⇎ 5
5 ⇎ $5$
5 ⇎ boxed{5}
5 ⇎ \boxed{}
5 ⇎ \boxed{ }
5 ⇎ \boxed{5
5 ⇎
\frac{1}{2} ⇎ $\frac{1}{2}$
5 ⇎ **5**
""",
}


@dataclass(frozen=True)
class Pair:
    kind: str
    gold: str
    response: str
    is_right: bool


def hostile_responses() -> list[Pair]:
    """Long ones: nothing in them may take time that grows faster than they do."""
    return [
        Pair("hostile responses", "5", text, is_right)
        for text, is_right in (
            ("\\boxed{" * 40_000, False),
            ("\\boxed{" * 20_000 + "5" + "}" * 20_000, True),
            ("{" * 200_000 + "\\boxed{5}", True),
            ("\\boxed{5}" * 20_000, True),
            ("\\boxed{5}" + "}" * 200_000, True),
            ("\\boxed{" + "1+" * 50_000 + "1}", False),
            ("\\boxed{" + " " * 100_000 + "5}", True),
            ("\\boxed{5" + "\\ " * 50_000 + "}", True),
            ("\\boxed{" + "(" * 5_000 + "5" + ")" * 5_000 + "}", False),
            ("\\boxed{" + "\\sqrt{" * 3_000 + "5" + "}" * 3_000 + "}", False),
            ("\\boxed{" + "9" * 100_000 + "}", False),
            ("\\boxed{" + "1," * 30_000 + "1}", False),
        )
    ]


def pairs() -> list[Pair]:
    found = []
    for kind, text in WRITTEN.items():
        for line in text.strip("\n").split("\n"):
            is_right = "⇔" in line
            gold, _, said = line.partition("⇔" if is_right else "⇎")
            response = (
                said.strip()
                if kind in RESPONSES
                else f"So the answer is $\\boxed{{{said.strip()}}}$."
            )
            found.append(Pair(kind, gold.strip(), response, is_right))
    return found + hostile_responses()
