"""The style sheets of the HTML pages."""

from __future__ import annotations

DATASET_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--line:#e1e5ea;--text:#1b2430;--soft:#5d6978;
--train:#3f74bd;--val:#e39a33;--test:#3f9d70;--warn:#fff4dc;--warn-line:#ecc776}
@media(prefers-color-scheme:dark){:root{--page:#14181e;--card:#1d232b;--line:#303945;--text:#e6eaf0;--soft:#9aa7b6;
--train:#6b9fe4;--val:#edae55;--test:#5fbf91;--warn:#3a2f17;--warn-line:#7a622c}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:56px}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--text);
background:var(--page);margin:0}
nav{position:sticky;top:0;z-index:1;background:var(--card);border-bottom:1px solid var(--line);overflow-x:auto;
white-space:nowrap;padding:10px max(16px,calc(50% - 540px))}
nav a{color:var(--soft);text-decoration:none;margin-right:20px}nav a:hover{color:var(--text)}
nav b{margin-right:24px}main{max-width:1112px;margin:0 auto;padding:20px 16px 64px}
h1{font-size:28px;line-height:1.2;margin:10px 0 16px;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 10px}h3{font-size:15px;margin:0 0 8px;overflow-wrap:anywhere}
h3 span,.small{color:var(--soft);font-size:13px;font-weight:400}p{margin:6px 0}
.small{overflow-wrap:anywhere}.card{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:14px 16px;margin:10px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(162px,1fr));gap:10px;margin:12px 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:10px 14px;
color:var(--soft);font-size:13px}.facts b{display:block;font-size:15px;letter-spacing:-.02em;white-space:nowrap;
color:var(--text);line-height:1.3}
.warn{background:var(--warn);border:1px solid var(--warn-line);border-radius:12px;padding:10px 14px;margin:10px 0;
overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{padding:5px 10px 5px 0;text-align:left;font-weight:400;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}th{color:var(--soft);font-size:13px}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.name{overflow-wrap:anywhere;min-width:80px}td.wide{width:52%;padding-right:0}
.bar{display:flex;height:14px;border-radius:4px;overflow:hidden}
.bar i{display:block;min-width:1px}
.bar.tall{height:22px}
.train{background:var(--train)}.val{background:var(--val)}.test{background:var(--test)}
.key span{display:inline-block;width:11px;height:11px;margin:0 5px 0 14px;border-radius:3px}
.key span:first-child{margin-left:0}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(78px,1fr));gap:6px}
.sheet i{aspect-ratio:1;border-radius:6px;background:var(--s) no-repeat;background-size:auto 100%}
.strip{display:flex;flex-wrap:wrap;gap:6px}
figure img,figure .none{width:80px;height:80px;border-radius:6px;display:block}
.groups{display:grid;gap:10px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr))}.groups .card{margin:0}
.groups .strip{gap:4px}.groups figure{width:82px;margin-right:0}
figure{margin:0 6px 8px 0;width:112px}figure .none{border:1px dashed var(--line);color:var(--soft);display:grid;
place-items:center;font-size:11px}
figcaption{font-size:11px;line-height:1.35;color:var(--soft);overflow-wrap:anywhere;margin-top:3px}
figcaption b{color:var(--text);font-weight:600;display:block}
@media(max-width:600px){.split{display:none}td.wide{width:36%}.facts{grid-template-columns:repeat(2,1fr)}
figure{width:96px}h1{font-size:23px}}
"""
